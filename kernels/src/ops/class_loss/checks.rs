//! Sizes at which the class loss is checked and timed.

use super::{Backward, ClassLoss, Forward};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Depth, Pass};

/// Every fifth row without a class.
fn targets(s: &ClassLoss, targets: &mut [f64]) {
    let none = [-1, s.k as i32, i32::MAX, i32::MIN].map(f64::from);
    for (i, target) in targets.iter_mut().enumerate() {
        *target = if i % 5 == 4 { none[i / 5 % 4] } else { (i * 3 % s.k) as f64 };
    }
}

/// Additions over the classes, or over the rows: each is of a warp's lanes and of 32 lanes, or of a
/// warp's rows and of the warps. The host adds in order.
fn sums(s: &ClassLoss) -> Depth {
    let (classes, rows) = (s.k.div_ceil(32) + 5, s.n.div_ceil(8) + 8);
    // Each term of a row has two additions of its own.
    Depth { device: classes.max(rows + 2) as f64, host: f64::INFINITY }
}

impl Checked for ClassLoss {
    fn checks() -> Checks<ClassLoss> {
        let size = |(n, k)| ClassLoss { n, k, weight: 2.0 };
        Checks::new(|s: &ClassLoss| format!("[{}, {}]", s.n, s.k))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 4 * s.n * s.k)
                    .sums(&["loss", "scale"], sums),
            )
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 6 * s.n * s.k).sums(&["dx"], sums))
            .given("targets", targets)
            .given("class_weights", |_, w| w.iter_mut().for_each(|w| *w = w.abs() + 0.1))
            .given("divisor", |_, d| d.fill(37.5))
            .scaled("x", 6.0)
            // Logits of up to 200 beside smaller ones.
            .edited("x", |s, x| {
                x.chunks_mut(s.k).step_by(3).flatten().for_each(|x| *x *= 33.0);
            })
            .gradients([(1, 1), (7, 5), (13, 20)].map(size))
            // One of everything, few rows, more rows than warps, more classes than lanes.
            .sizes([(1, 1), (7, 5), (101, 20), (13, 151)].map(size))
            // No rows give a loss of zero.
            .sizes([(0, 2)].map(size))
            // Queries of four images and the classes of Cityscapes; far below the cost of a launch.
            .timed_in_f32([(400, 20)].map(size))
            .timed_on_host([("four images", size((400, 20)))])
    }
}
