//! Sizes at which group norm is checked and timed.

use super::{Backward, Forward, GroupNorm, cpu};
use crate::call::Host;
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Depth, Pass};
use crate::check::operands::Values;

/// Operations on the path of a term of the statistics. On a device: additions of a split, merges of
/// a lane (four operations each), merges of the warp. On the host: additions of a task; f64 merges
/// them.
fn statistics(s: &GroupNorm) -> Depth {
    let splits = s.splits();
    let merges = (splits.count * (s.c / s.groups)).div_ceil(32) as f64 + 5.0;
    let host = s.hw.min(cpu::ROWS) as f64 + 8.0;
    Depth { device: splits.rows as f64 + 4.0 * merges + 8.0, host }
}

/// Operations on the path of a term of the gradients: over pixels, images, channels of a group.
fn gradients(s: &GroupNorm) -> Depth {
    let (splits, rest) = (s.splits(), (s.b + s.c / s.groups) as f64 + 8.0);
    let host = s.hw.min(cpu::ROWS) + s.hw.div_ceil(cpu::ROWS);
    Depth { device: splits.depth() + splits.count as f64 + rest, host: host as f64 + rest }
}

/// Bounds of `rstd`. The variance is around the computed mean of a split, so the error of the mean
/// enters it squared, and the rounding of `x - mean` as a relative error.
fn rstd(s: &GroupNorm, of: Arithmetic, known: &Values) -> Vec<f64> {
    let (unit, width) = (of.depth * UNIT, s.c / s.groups);
    let mut sizes = vec![0.0; s.sets()];
    for (i, x) in known["x"].iter().enumerate() {
        let group = i / (s.hw * s.c) * s.groups + i % s.c / width;
        sizes[group] += x.abs() / (s.hw * width) as f64;
    }
    let bound = |(rstd, size): (&f64, &f64)| rstd * (unit + (unit * size * rstd).powi(2));
    known["rstd"].iter().zip(&sizes).map(bound).collect()
}

impl Checked for GroupNorm {
    fn checks() -> Checks<GroupNorm> {
        let size = |(b, hw, c, groups)| GroupNorm { b, hw, c, groups, eps: 1e-5 };
        Checks::new(|s: &GroupNorm| format!("[{}, {}, {}] / {}", s.b, s.hw, s.c, s.groups))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 8 * s.all())
                    .sums(&["y", "mean", "rstd"], statistics)
                    .bound("rstd", rstd),
            )
            .pass(
                Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 16 * s.all())
                    .sums(&["dx", "dweight", "dbias"], gradients),
            )
            .gradients([(2, 3, 6, 3)].map(size))
            .sizes([(1, 1, 2, 1), (2, 67, 12, 4), (1, 130, 264, 33), (2, 35, 64, 8)].map(size))
            .host_sizes([(2, 301, 64, 8)].map(size))
            // A mean far from zero, where E[x^2] - E[x]^2 would fail.
            .shifted("x", 300.0, [(1, 200, 16, 2)].map(size))
            // The same for primes, one group, one channel per group, more rows than a task handles,
            // the shape of the pixel decoder.
            .host_shifted(
                "x",
                30.0,
                [
                    (1, 2, 1, 1),
                    (3, 5, 6, 2),
                    (2, 67, 7, 1),
                    (2, 9, 5, 5),
                    (1, 199, 48, 3),
                    (2, 1024, 256, 32),
                ]
                .map(size),
            )
            .empty([(0, 3, 4, 2)].map(size))
            .refused([(1, 0, 4, 2), (1, 3, 0, 2)].map(size))
            // Finest map of the pixel decoder for four 512 px images, and for one.
            .timed([(4, 128 * 128, 256, 32)].map(size))
            .timed_on_host([
                ("stride-4 map", size((1, 128 * 128, 256, 32))),
                ("stride-8 map", size((1, 64 * 64, 256, 32))),
            ])
    }
}
