//! Sizes at which the selection of rows is checked and timed.

use super::{Backward, Forward, GatherRows};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

/// A row three times, and invalid rows; then distinct ones.
fn indices(_: &GatherRows, indices: &mut [f64]) {
    let first = [0, -1, 4, 0, 0, 7, 3, i32::MAX, i32::MIN].map(f64::from);
    for (i, index) in indices.iter_mut().enumerate() {
        *index = first.get(i).copied().unwrap_or(5.0 * i as f64);
    }
}

impl Checked for GatherRows {
    fn checks() -> Checks<GatherRows> {
        let size = |(n, r, c)| GatherRows { n, r, c };
        Checks::new(|s: &GatherRows| format!("{} of [{}, {}]", s.r, s.n, s.c))
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |_| 0))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| s.r * s.c))
            .given("indices", indices)
            .gradients([(1, 1, 1), (5, 6, 7)].map(size))
            .sizes(
                [(1, 1, 1), (1, 9, 1), (7, 1, 13), (7, 9, 13), (5, 1, 300), (5, 9, 300)].map(size),
            )
            // An empty table gives no rows, and gradients of zero.
            .sizes([(1, 0, 1), (7, 0, 13), (5, 0, 300)].map(size))
            .empty([(2, 3, 0), (0, 3, 2)].map(size))
            // Mask embeddings of the matched queries of four images; far below the cost of a launch.
            .timed_in_f32([(400, 76, 256)].map(size))
            .timed_on_host([("four images", size((400, 76, 256)))])
    }
}
