//! Sizes at which class scores of pixels are checked and timed.

use super::{Forward, SemanticScores};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};
use crate::ops::resize::{Axis, Mode, Step};

impl Checked for SemanticScores {
    fn checks() -> Checks<SemanticScores> {
        let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).ok();
        let size = |(q, k, [h, w, ho, wo]): (_, _, [usize; 4])| {
            Some(SemanticScores { q, k, y: axis(h, ho)?, x: axis(w, wo)? })
        };
        let shape = |s: &SemanticScores| {
            let ([h, ho], [w, wo]) = ([s.y.n_in(), s.y.n_out()], [s.x.n_in(), s.x.n_out()]);
            format!("[{}, {}] {h}x{w} to {ho}x{wo}", s.q, s.k)
        };
        Checks::new(shape)
            .pass(Pass::of::<Forward<'_, Host, f32>>("", |s| 2 * s.q * s.k * s.pixels()))
            .scaled("cls", 4.0)
            .scaled("masks", 15.0)
            // One of everything; a street scene; more classes than two blocks handle, nothing to
            // resize.
            .sizes(
                [(1, 1, [1, 1, 1, 1]), (7, 19, [5, 3, 20, 12]), (13, 43, [8, 9, 8, 9])]
                    .into_iter()
                    .filter_map(size),
            )
            // Odd factors, the queries of a network, none.
            .host_sizes(
                [
                    (7, 3, [5, 4, 13, 11]),
                    (3, 2, [5, 205, 5, 205]),
                    (20, 19, [32, 32, 128, 128]),
                    (100, 19, [32, 64, 32, 64]),
                    (0, 3, [1, 5, 1, 5]),
                ]
                .into_iter()
                .filter_map(size),
            )
            // 100 queries and 19 classes of one crop of 512 px, from masks at a quarter of its size.
            .timed(size((100, 19, [128, 128, 512, 512])))
            .timed_on_host(size((100, 19, [128, 128, 512, 512])).map(|s| ("a window", s)))
    }
}
