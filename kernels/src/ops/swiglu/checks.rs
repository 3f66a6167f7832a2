//! Sizes at which the gate of a SwiGLU layer is checked and timed.

use super::{Backward, Forward, Swiglu};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for Swiglu {
    fn checks() -> Checks<Swiglu> {
        let size = |(n, h)| Swiglu { n, h };
        Checks::new(|s: &Swiglu| format!("[{}, 2 x {}]", s.n, s.h))
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 12 * s.n * s.h))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 20 * s.n * s.h))
            .scaled("x", 8.0)
            .gradients([(3, 5)].map(size))
            // One element, no whole vector, whole vectors of one and of two blocks of columns.
            .sizes([(1, 1), (7, 13), (37, 256), (3, 264)].map(size))
            .host_sizes([(65, 4096)].map(size))
            .empty([(0, 3), (2, 0)].map(size))
            // Gate of DINOv2-g on tokens of four images of 512 px, and of one.
            .timed([(4 * 1025, 4096)].map(size))
            .timed_on_host([("ViT-g", size((1025, 4096)))])
    }
}
