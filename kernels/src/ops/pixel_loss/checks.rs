//! Sizes at which the per-pixel loss is checked and timed.

use super::{Backward, Forward, PixelLoss};
use crate::call::Host;
use crate::check::checks::{Arithmetic, Checked, Checks, Depth, Pass};
use crate::check::operands::Values;
use crate::check::{EXPF, UNIT};

/// A fifth of the pixels without a class.
fn labels(s: &PixelLoss, labels: &mut [f64]) {
    for (i, label) in labels.iter_mut().enumerate() {
        *label = if i % 5 == 3 { 255.0 } else { (i * 7 % s.k.min(255)) as f64 };
    }
}

/// Roundings on the path of a term through the sum of the exponentials of a pixel. A kernel reads the
/// logits once: each maximum that it meets rescales the sum, an exponential that the host and the
/// reference do not have.
fn classes(s: &PixelLoss) -> Depth {
    Depth { device: s.k as f64 * (2.0 + EXPF), host: s.k as f64 + EXPF }
}

/// Bounds of `lse`.
fn lse(s: &PixelLoss, of: Arithmetic, known: &Values) -> Vec<f64> {
    let bound = |(p, lse): (usize, &f64)| {
        let logits = || (0..s.k).map(|j| known["x"][s.at(p, j)]);
        // Each argument is rounded; together they span the logits.
        let span = logits().fold(f64::MIN, f64::max) - logits().fold(f64::MAX, f64::min);
        UNIT * (of.depth + span + EXPF * (s.k as f64).ln() + lse.abs())
    };
    known["lse"].iter().enumerate().map(bound).collect()
}

/// Bounds of the loss: a sum of terms with the errors of `lse`. The additions are those of a warp, of
/// the warps and of the blocks; the host adds in f64.
fn loss(s: &PixelLoss, of: Arithmetic, known: &Values) -> Vec<f64> {
    let depth = 5.0 + 8.0 + 2.0 + (s.b * s.n).div_ceil(256) as f64;
    let terms = lse(s, of, known).into_iter().zip(&known["lse"]).zip(&known["labels"]);
    let bounds = terms.enumerate().filter(|(_, (_, y))| **y < s.k as f64);
    let bounds = bounds.map(|(p, ((bound, lse), y))| {
        let term = (lse - known["x"][s.at(p, *y as usize)]).abs();
        bound + (depth + 4.0) * UNIT * term
    });
    vec![s.scale() * bounds.sum::<f64>()]
}

impl Checked for PixelLoss {
    fn checks() -> Checks<PixelLoss> {
        let size = |[b, k, n]: [usize; 3]| PixelLoss { b, k, n, weight: 2.0 };
        Checks::new(|s: &PixelLoss| format!("[{}, {}, {}]", s.b, s.k, s.n))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 5 * s.b * s.k * s.n)
                    .sums(&["lse", "loss"], classes)
                    .bound("lse", lse)
                    .bound("loss", loss),
            )
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 4 * s.b * s.k * s.n))
            .given("labels", labels)
            .scaled("x", 6.0)
            // Logits of up to 30 beside smaller ones.
            .edited("x", |_, x| x.iter_mut().step_by(2).for_each(|x| *x *= 5.0))
            .gradients([[1, 1, 1], [2, 5, 7]].map(size))
            // One of everything, pixels of more than one block, more classes than a label can name.
            .sizes([[1, 1, 1], [2, 19, 301], [3, 5, 100], [1, 300, 40]].map(size))
            // No pixels give a loss of zero.
            .sizes([[2, 3, 0]].map(size))
            // No whole strip of pixels, and more than one.
            .host_sizes([[2, 5, 7], [1, 19, 513], [2, 3, 1025]].map(size))
            // Logits of four crops of 512 px and the classes of Cityscapes.
            .timed_in_f32([[4, 19, 512 * 512]].map(size))
    }
}
