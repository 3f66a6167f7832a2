//! Sizes at which dropout is checked and timed.

use super::{Dropout, Forward};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for Dropout {
    fn checks() -> Checks<Dropout> {
        let size = |(whole, b, n)| {
            let (seed, site, rate) = (0x1234_5678_9ABC, 0x4_5678, 0.3);
            Dropout { seed, site, rate, whole, b, n }
        };
        Checks::new(|s: &Dropout| {
            format!("[{}, {}]{}", s.b, s.n, if s.whole { " whole" } else { "" })
        })
        .pass(Pass::of::<Forward<'_, Host, f32>>("", |s| s.b * s.n))
        // A step beyond i32, and an image that is not the first.
        .given("position", |_, at| at.copy_from_slice(&[-2.0, 5.0]))
        // One element, part of a vector, vectors that are not aligned, more than a block.
        .sizes([(false, 1, 1), (false, 2, 37), (false, 2, 64), (false, 1, 2051)].map(size))
        .sizes([(true, 5, 16), (true, 2, 19)].map(size))
        .host_sizes([(false, 2, 9001)].map(size))
        .empty([(false, 0, 3), (false, 2, 0)].map(size))
        .refused([1.0, -0.1, f64::NAN].map(|rate| Dropout { rate, ..size((false, 1, 4)) }))
        .refused([Dropout { site: 1 << 20, ..size((false, 1, 4)) }])
        // What enters a layer of a ViT-L for four images of 512 px.
        .timed([(false, 4, 1025 * 1024)].map(size))
        .timed_on_host([("a layer's input, ViT-L 512 px", size((false, 1, 1025 * 1024)))])
    }
}
