//! Sizes at which the mask losses are checked and timed.

use super::{Backward, Forward, MaskLoss};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Depth, Pass};
use crate::cpu::simd::LANES;

/// Additions over the points, those of a term included: of a thread, a warp and the warps; on the host
/// of a lane and the lanes.
fn points(s: &MaskLoss) -> Depth {
    let host = s.p.div_ceil(LANES) + LANES.ilog2() as usize;
    Depth { device: s.p.div_ceil(256) as f64 + 5.0 + 8.0 + 2.0, host: host as f64 + 2.0 }
}

/// Additions over the points and over the pairs; the host adds these in order.
fn pairs(s: &MaskLoss) -> Depth {
    let Depth { device, host } = points(s);
    Depth { device: device + s.r.div_ceil(256) as f64 + 5.0 + 8.0, host: host + s.r as f64 }
}

impl Checked for MaskLoss {
    fn checks() -> Checks<MaskLoss> {
        let size = |(r, p)| MaskLoss::new(r, p);
        Checks::new(|s: &MaskLoss| format!("[{}, {}]", s.r, s.p))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 20 * s.r * s.p)
                    .sums(&["sums"], points)
                    .sums(&["losses"], pairs),
            )
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 20 * s.r * s.p))
            .scaled("x", 20.0)
            // Mostly 0 or 1, with intermediate values as from sampling.
            .given("t", |_, t| t.iter_mut().for_each(|t| *t = (2.0 * *t).clamp(0.0, 1.0)))
            .given("num", |_, num| num.fill(3.5))
            // Padding every fourth pair.
            .given("weights", |_, weights| {
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = [1.0, 0.5, 1.0, 0.0][i % 4];
                }
            })
            .gradients([(1, 1), (3, 7), (5, 33)].map(size))
            // One of everything, few points, several of a thread, more pairs than threads.
            .sizes([(1, 1), (3, 13), (7, 1000), (301, 7)].map(size))
            // No pairs give losses of zero.
            .sizes([(0, 100)].map(size))
            // No whole vector of the host, and the points of the recipe.
            .host_sizes([(5, 31), (5, 1003), (7, 12544)].map(size))
            // Twenty matched masks in each of four images, and 32 pairs.
            .timed_in_f32([(80, 12544)].map(size))
            .timed_on_host([("32 pairs", size((32, 12544)))])
    }
}
