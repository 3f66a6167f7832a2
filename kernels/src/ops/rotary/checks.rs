//! Sizes at which rotary position is checked and timed.

use super::{Rotary, Rotate, Turn};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

/// Numbers of the queries and keys that are rotated.
fn numbers(s: &Rotary) -> usize {
    s.b * s.turned() * 2 * s.heads * s.d
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
        let size = |(b, t, heads, d, skip), turn| Rotary { b, t, heads, d, skip, turn };
        let both = |x| [size(x, Turn::Forward), size(x, Turn::Back)];
        let eva = |b| size((b, 1025, 16, 64, 1), Turn::Forward);
        Checks::new(|Rotary { b, t, heads, d, skip, turn }| {
            format!("[{b}, {t}, 3, {heads}, {d}] from {skip}, {turn:?}")
        })
        .pass(
            Pass::of::<Rotate<'_, Host, f32>>("", |s| 3 * numbers(s))
                .moves(|s, bytes| 2 * bytes * numbers(s) + 4 * s.turned() * s.d),
        )
        .given("table", table)
        // One pair, vectors that end within a token, whole accesses, more vectors than a block has.
        .sizes(
            [(1, 1, 1, 2, 0), (2, 5, 3, 6, 1), (3, 7, 2, 16, 2), (1, 2, 17, 64, 1)]
                .into_iter()
                .flat_map(both),
        )
        .empty(
            [(0, 3, 2, 4, 1), (2, 3, 2, 4, 3), (2, 3, 0, 4, 1), (2, 0, 2, 4, 0)]
                .map(|x| size(x, Turn::Forward)),
        )
        .refused([(1, 1, 1, 101, 0), (1, 1, 1, 2, 10)].map(|x| size(x, Turn::Forward)))
        // EVA02-L on four images of 512 px, and on one.
        .timed([eva(4)])
        .timed_on_host([("EVA02-L", eva(1))])
    }
}
