//! Sizes at which batch norm is checked and timed.

use super::{Backward, BatchNorm, Evaluation, Forward, Running, cpu};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Depth, Pass};
use crate::check::operands::Values;

/// Operations on the path of a term of the statistics. On a device: additions of a split, then merges
/// of four operations each. On the host: additions of a task; f64 merges them.
fn statistics(s: &BatchNorm) -> Depth {
    let splits = s.splits();
    let host = s.n.min(cpu::ROWS) as f64 + 8.0;
    Depth { device: (splits.rows + 4 * splits.count) as f64 + 8.0, host }
}

/// Operations on the path of a term of the gradients.
fn gradients(s: &BatchNorm) -> Depth {
    let splits = s.splits();
    let host = s.n.min(cpu::ROWS) + s.n.div_ceil(cpu::ROWS) + 8;
    Depth { device: splits.depth() + splits.count as f64 + 8.0, host: host as f64 }
}

/// Bounds of `var`. It is around the computed mean of a split, so the error of the mean enters it
/// squared, and the rounding of `x - mean` as a relative error.
fn var(s: &BatchNorm, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (unit, mut sizes) = (of.depth * UNIT, vec![0.0; s.c]);
    for (i, x) in known["x"].iter().enumerate() {
        sizes[i % s.c] += x.abs() / s.n as f64;
    }
    let bound = |(var, size): (&f64, &f64)| 2.0 * unit * var + (unit * size).powi(2);
    known["var"].iter().zip(&sizes).map(bound).collect()
}

impl Checked for BatchNorm {
    fn checks() -> Checks<BatchNorm> {
        let size = |(n, c)| BatchNorm { n, c, eps: 1e-5, momentum: 0.1, training: true };
        let fixed = |of| BatchNorm { training: false, ..size(of) };
        Checks::new(|s: &BatchNorm| {
            format!("[{}, {}]{}", s.n, s.c, if s.training { "" } else { ", evaluation" })
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 8 * s.all())
                .sums(&["y", "mean", "var"], statistics)
                .bound("var", var),
        )
        .pass(Pass::of::<Evaluation<'_, Host, f32>>("evaluation", |s| 3 * s.all()))
        .pass(
            Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 12 * s.all())
                .sums(&["dx", "dweight", "dbias"], gradients),
        )
        .pass(Pass::of::<Running<'_, Host, f32>>("running", |s| 6 * s.c))
        .gradients([(6, 3), (5, 1)].map(size))
        // Few rows, several splits of rows, more than a block of channels, whole vectors.
        .sizes([(2, 1), (67, 12), (130, 264), (70, 64)].map(size))
        .sizes([(1, 3), (67, 12), (35, 64)].map(fixed))
        .host_sizes([(301, 64), (1024, 130)].map(size))
        .host_sizes([(301, 64)].map(fixed))
        // A mean far from zero, where E[x^2] - E[x]^2 would fail.
        .shifted("x", 300.0, [(200, 16)].map(size))
        .host_shifted("x", 30.0, [(2, 1), (199, 48), (2048, 256)].map(size))
        .empty([(2, 0)].map(size))
        .empty([(0, 4), (3, 0)].map(fixed))
        .refused([(0, 4)].map(size))
        // Finest map of the semantic FPN for four 512 px images.
        .timed([(4 * 128 * 128, 128)].map(size))
        .timed_on_host([
            ("stride-4 map", size((128 * 128, 128))),
            ("stage 1 of ResNet-50, frozen", fixed((128 * 128, 256))),
        ])
    }
}
