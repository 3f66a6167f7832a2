//! Sizes at which the scaling of channels is checked and timed.

use super::{ChannelScale, Forward};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for ChannelScale {
    fn checks() -> Checks<ChannelScale> {
        let size = |(b, n, c)| ChannelScale { b, n, c };
        Checks::new(|s: &ChannelScale| format!("[{}, {}, {}]", s.b, s.n, s.c))
            .pass(Pass::of::<Forward<'_, Host, f32>>("", |s| s.b * s.n * s.c))
            // One element, part of a vector, several images, more than a tile.
            .sizes([(1, 1, 1), (2, 37, 19), (3, 5, 264), (1, 67, 64)].map(size))
            .host_sizes([(2, 301, 40)].map(size))
            .empty([(0, 2, 3), (1, 0, 3), (1, 2, 0)].map(size))
            // The map before the classifier for four images of 512 px.
            .timed([(4, 128 * 128, 128)].map(size))
    }
}
