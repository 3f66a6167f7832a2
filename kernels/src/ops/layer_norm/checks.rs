//! Sizes at which layer norm is checked and timed.

use super::{Backward, Forward, LayerNorm, Stats};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Depth, Pass};
use crate::check::operands::Values;
use crate::cpu::simd::LANES;
use crate::device::sizes::RowSplit;

/// Additions of a lane, then of the lanes, then of the rest of a row.
fn row(s: &LayerNorm) -> Depth {
    let host = (s.c / LANES + LANES.ilog2() as usize + s.c % LANES) as f64;
    Depth { device: s.c.div_ceil(32) as f64 + 5.0, host }
}

/// Additions over the rows.
fn column(s: &LayerNorm) -> Depth {
    let host = (s.n.min(super::cpu::ROWS) + s.n.div_ceil(super::cpu::ROWS)) as f64;
    Depth { device: RowSplit::of(s.n).depth(), host }
}

/// Bounds of `rstd`: the error of the mean enters the variance squared, that of `x - mean` as a
/// relative error.
fn rstd(s: &LayerNorm, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (unit, x) = ((of.depth + 4.0) * UNIT, &known["x"]);
    let bound = |(i, rstd): (usize, &f64)| {
        let sum: f64 = x[i * s.c..(i + 1) * s.c].iter().map(|x| x.abs()).sum();
        rstd * (unit + (unit * sum / s.c as f64 * rstd).powi(2))
    };
    known["rstd"].iter().enumerate().map(bound).collect()
}

impl Checked for LayerNorm {
    fn checks() -> Checks<LayerNorm> {
        let size = |(n, c)| LayerNorm { n, c, eps: 1e-6 };
        Checks::new(|s: &LayerNorm| format!("[{}, {}]", s.n, s.c))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 8 * s.n * s.c)
                    .sums(&["y", "mean", "rstd"], row)
                    .bound("rstd", rstd),
            )
            .pass(
                Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 14 * s.n * s.c)
                    .sums(&["dx"], row)
                    .sums(&["dweight", "dbias"], column),
            )
            .pass(
                Pass::of_host::<Stats<'_, Host, f32>>("stats")
                    .sums(&["mean", "rstd"], row)
                    .bound("rstd", rstd),
            )
            .gradients([(1, 5), (3, 7)].map(size))
            // One element, odd widths, rows kept in registers, the widest such row and the first that
            // is not.
            .sizes([(1, 1), (7, 13), (70, 40), (9, 384), (3, 1024), (2, 1544), (2, 2056)].map(size))
            // More rows than one task of the host handles.
            .host_sizes([(3, 48), (257, 384)].map(size))
            // A mean far from zero, where E[x^2] - E[x]^2 would fail.
            .shifted("x", 300.0, [(5, 384)].map(size))
            .empty([(0, 3)].map(size))
            .refused([(2, 0)].map(size))
            // Tokens of four 512 px images of ViT-L, the class token included.
            .timed([(4 * 1025, 1024)].map(size))
            .timed_on_host([
                ("ViT-S", size((1025, 384))),
                ("ViT-L", size((1025, 1024))),
                ("encoder", size((5376, 256))),
            ])
    }
}
