//! Sizes at which transposition is checked and timed.

use super::{Forward, Transpose};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for Transpose {
    fn checks() -> Checks<Transpose> {
        let size = |(b, n, m)| Transpose { b, n, m };
        Checks::new(|s: &Transpose| format!("[{}, {}, {}]", s.b, s.n, s.m))
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |_| 0))
            // One element, parts of a tile, whole tiles, a single row.
            .sizes([(1, 1, 1), (2, 37, 19), (3, 64, 33), (1, 5, 100)].map(size))
            .host_sizes([(1, 70, 33), (2, 1, 40)].map(size))
            .empty([(0, 2, 3), (1, 0, 3), (1, 2, 0)].map(size))
            // Class logits of four images of 512 px, from patches to classes.
            .timed([(4, 1024, 19)].map(size))
    }
}
