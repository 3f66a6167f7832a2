//! Sizes at which max pooling is checked and timed.

use super::{Backward, Forward, MaxPool};
use crate::call::Host;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;

/// Bounds of positions: there is one right answer.
fn exact(_s: &MaxPool, _of: Arithmetic, known: &Values) -> Vec<f64> {
    vec![0.0; known["at"].len()]
}

/// Makes most windows have more than one maximum.
fn ties(_s: &MaxPool, x: &mut [f64]) {
    x.iter_mut().for_each(|x| *x = (2.0 * *x).round());
}

impl Checked for MaxPool {
    fn checks() -> Checks<MaxPool> {
        let size = |([b, h, w, c], [k, stride, pad]): ([usize; 4], [usize; 3])| MaxPool {
            b,
            h,
            w,
            c,
            k,
            stride,
            pad,
        };
        let stem = |b| size(([b, 256, 256, 64], [3, 2, 1]));
        Checks::new(|s: &MaxPool| {
            let MaxPool { b, h, w, c, k, stride, pad } = s;
            format!("[{b}, {h}, {w}, {c}] + {pad} by {k} / {stride}")
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd", |s| s.k * s.k * s.lengths()[1])
                .bound("at", exact),
        )
        .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| s.k * s.k * s.lengths()[1]))
        .edited("x", ties)
        .gradients([([2, 5, 7, 3], [3, 2, 1]), ([1, 6, 4, 2], [2, 1, 0])].map(size))
        // One pixel, odd maps, whole vectors of channels, windows that overlap, that touch, and that
        // leave pixels out.
        .sizes(
            [
                ([1, 1, 1, 1], [3, 2, 1]),
                ([2, 7, 5, 3], [3, 2, 1]),
                ([1, 6, 9, 16], [3, 2, 1]),
                ([1, 5, 6, 11], [3, 1, 1]),
                ([1, 6, 4, 8], [2, 2, 0]),
                ([1, 7, 8, 2], [2, 3, 1]),
            ]
            .map(size),
        )
        .host_sizes([([2, 23, 31, 70], [3, 2, 1]), ([1, 9, 16, 5], [5, 2, 2])].map(size))
        .empty([([0, 3, 3, 2], [3, 2, 1]), ([1, 3, 3, 0], [3, 2, 1])].map(size))
        .refused([([1, 3, 3, 1], [3, 0, 1]), ([1, 3, 3, 1], [0, 1, 0])].map(size))
        // Stem of a ResNet for four images of 512 px.
        .timed([stem(4)])
        .timed_on_host([("stem of ResNet-50", stem(1))])
    }
}
