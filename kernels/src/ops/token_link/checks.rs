//! Sizes at which the token link is checked and timed.

use super::{Backward, Forward, TokenLink};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for TokenLink {
    fn checks() -> Checks<TokenLink> {
        let size = |(layers, m, c)| TokenLink { layers, m, c };
        Checks::new(|s: &TokenLink| format!("[{}, {}, {}]", s.layers, s.m, s.c))
            // Forward: a comparison and an addition per layer. Backward: a comparison.
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 2 * s.layers * s.m * s.c))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| s.layers * s.m * s.c))
            // A tie between the first and the third layer: the first one gets the gradient.
            .edited("q", |s, q| {
                if s.layers > 2 {
                    (q[0], q[2 * s.m * s.c]) = (3.0, 3.0);
                }
            })
            .gradients([(1, 1, 1), (3, 5, 7)].map(size))
            // One element, a block that is not full, more than one block and all layers of ViT-L.
            .sizes([(1, 1, 1), (3, 7, 13), (24, 10, 32)].map(size))
            .empty([(3, 0, 4)].map(size))
            // 100 queries of 256 channels in each of the 24 layers of ViT-L.
            .timed([(24, 100, 256)].map(size))
            .timed_on_host([("ViT-L", size((24, 100, 256)))])
    }
}
