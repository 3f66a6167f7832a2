//! Sizes at which relative positions are checked and timed.

use super::{Forward, QueryGradient, RelativePosition, TableGradients};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

/// Operations of one inner product per bias.
fn flops(s: &RelativePosition) -> usize {
    2 * s.biases() * s.d
}

/// Bytes of the queries and the biases; the other parts of `qkv` are not touched, and the tables
/// are small.
fn moved(s: &RelativePosition, size: usize) -> usize {
    size * (s.tokens() * s.d + s.biases())
}

impl Checked for RelativePosition {
    fn checks() -> Checks<RelativePosition> {
        let size = |(b, heads, d, h, w)| RelativePosition { b, heads, d, h, w };
        let sam = |(b, h, w)| size((b, 16, 80, h, w));
        Checks::new(|RelativePosition { b, heads, d, h, w }| {
            format!("[{b}, {h} {w}, 3, {heads}, {d}]")
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("fwd_80", flops)
                .on_tensor_cores(&["rel"])
                .accurate(&["rel"], 1e-6)
                .moves(moved),
        )
        .pass(
            Pass::of::<QueryGradient<'_, Host, f32>>("dq_80", flops)
                .on_tensor_cores(&["dqkv"])
                .accurate(&["dqkv"], 1e-5)
                .moves(|s, size| moved(s, size) + size * s.tokens() * s.d),
        )
        .pass(
            Pass::of::<TableGradients<'_, Host, f32>>("table_80", |s| 2 * flops(s))
                .on_tensor_cores(&["dtable of rows", "dtable of columns"])
                .accurate(&["dtable of rows", "dtable of columns"], 1e-5)
                .moves(moved),
        )
        .gradients([(1, 1, 1, 1, 1), (2, 2, 3, 2, 3)].map(size))
        // One cell; a prime number of cells in more than one tile of queries; tables of more than
        // one tile; a window of SAM; splits of more than one chunk of queries.
        .sizes(
            [(1, 1, 1, 1), (2, 1, 5, 17), (1, 2, 37, 3), (1, 2, 14, 14), (43, 3, 1, 2)]
                .map(|(b, heads, h, w)| size((b, heads, 80, h, w))),
        )
        .host_sizes([(1, 1, 1, 1, 1), (2, 2, 3, 2, 3), (2, 1, 17, 5, 9)].map(size))
        .empty([(0, 2, 80, 3, 2), (1, 0, 80, 3, 2), (1, 2, 80, 0, 2)].map(size))
        // Global block of SAM-H for four images of 512 px, and its windows.
        .timed([(4, 32, 32), (36, 14, 14)].map(sam))
        .timed_on_host([("SAM-H global", sam((1, 32, 32))), ("SAM-H windows", sam((9, 14, 14)))])
    }
}
