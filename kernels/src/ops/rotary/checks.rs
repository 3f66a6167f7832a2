//! Sizes at which rotary position is checked and timed.

use super::{Pairs, Rotary, Rotate, Turn};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

/// Numbers of the queries and keys that are rotated.
fn numbers(s: &Rotary) -> usize {
    s.b * s.cells * 2 * s.heads * s.d
}

/// Replaces drawn numbers by cosines and sines of angles up to 5.
fn table(_s: &Rotary, table: &mut [f64]) {
    for pair in table.chunks_exact_mut(2) {
        let (sin, cos) = (5.0 * pair[0]).sin_cos();
        pair.copy_from_slice(&[cos, sin]);
    }
}

impl Checked for Rotary {
    fn checks() -> Checks<Rotary> {
        let pairs = Pairs::Neighbours;
        let size = |(b, t, heads, d, skip, cells), turn| Rotary {
            b,
            t,
            heads,
            d,
            skip,
            cells,
            pairs,
            turn,
        };
        let both = |x| [size(x, Turn::Forward), size(x, Turn::Back)];
        let halves = |s: Rotary| [s, Rotary { pairs: Pairs::Halves, ..s }];
        let eva = |b| size((b, 1025, 16, 64, 1, 1024), Turn::Forward);
        let dinov3 = Rotary { t: 1029, skip: 5, pairs: Pairs::Halves, ..eva(4) };
        Checks::new(|Rotary { b, t, heads, d, skip, cells, turn, .. }| {
            format!("[{b}, {t}, 3, {heads}, {d}], {cells} from {skip}, {turn:?}")
        })
        .named(Rotary::kernel)
        .pass(
            Pass::of::<Rotate<'_, Host, f32>>("", |s| 3 * numbers(s))
                .moves(|s, bytes| 2 * bytes * numbers(s) + 4 * s.cells * s.d),
        )
        .given("table", table)
        // One pair, vectors that end within a token, whole accesses, more vectors than a block has.
        .sizes(
            [
                (1, 1, 1, 2, 0, 1),
                (2, 5, 3, 6, 1, 4),
                (3, 7, 2, 16, 2, 5),
                (1, 2, 17, 64, 1, 1),
                // Tokens behind the patches.
                (2, 6, 2, 12, 1, 3),
            ]
            .into_iter()
            .flat_map(both)
            .flat_map(halves),
        )
        .empty(
            [(0, 3, 2, 4, 1, 2), (2, 3, 2, 4, 3, 0), (2, 3, 0, 4, 1, 2), (2, 0, 2, 4, 0, 0)]
                .map(|x| size(x, Turn::Forward)),
        )
        .refused([(1, 1, 1, 101, 0, 1), (1, 1, 1, 2, 10, 1)].map(|x| size(x, Turn::Forward)))
        // EVA02-L and DINOv3-L on four images of 512 px, and EVA02-L on one.
        .timed([eva(4), dinov3])
        .timed_on_host([("EVA02-L", eva(1))])
    }
}
