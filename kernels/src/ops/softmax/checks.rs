//! Sizes at which softmax is checked and timed.

use super::{Backward, Forward, Softmax};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Depth, Pass};
use crate::cpu::simd::LANES;

/// Additions of a lane, then of the lanes, then of the rest of a row.
fn row(s: &Softmax) -> Depth {
    let host = (s.c / LANES + LANES.ilog2() as usize + s.c % LANES) as f64;
    Depth { device: s.c.div_ceil(32) as f64 + 5.0, host }
}

impl Checked for Softmax {
    fn checks() -> Checks<Softmax> {
        let size = |(n, c)| Softmax { n, c };
        Checks::new(|s: &Softmax| format!("[{}, {}]", s.n, s.c))
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 5 * s.n * s.c).sums(&["y"], row))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 4 * s.n * s.c).sums(&["dx"], row))
            // Scores reach tens, so that the maximum must be subtracted.
            .scaled("x", 20.0)
            .gradients([(1, 1), (3, 5), (2, 16)].map(size))
            .sizes([(1, 1), (9, 20), (3, 33), (2, 4099)].map(size))
            .host_sizes([(3, 5), (2, 16), (400, 20)].map(size))
            .empty([(0, 3), (2, 0)].map(size))
            // Wide rows, which are memory-bound, and the class logits of four images.
            .timed([(4096, 4096), (400, 20)].map(size))
            .timed_on_host([("wide", size((1024, 4096)))])
    }
}
