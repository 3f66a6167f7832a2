//! Sizes at which matching costs are checked and timed.

use super::{Forward, MatchCost, cpu};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Depth, Pass};

/// Classes in turn; the last target of an image is padding if it has several.
fn labels(s: &MatchCost, labels: &mut [f64]) {
    for (i, label) in labels.iter_mut().enumerate() {
        let padding = s.g > 1 && i % s.g + 1 == s.g;
        *label = if padding { -1.0 } else { (i * 7 % s.k) as f64 };
    }
}

/// Additions over the points, or over the classes: of a thread, a warp and the warps, or of lanes and
/// a warp. The host multiplies tiles of points in any order, and adds the tiles.
fn points(s: &MatchCost) -> Depth {
    // Each term of the cross-entropy has two additions of its own.
    let device = (s.p.div_ceil(256) + 5 + 8 + 2).max((s.k + 1).div_ceil(32) + 5);
    let host = (2 * s.p.min(cpu::TILE) + s.p.div_ceil(cpu::TILE)).max(s.k);
    Depth { device: device as f64, host: host as f64 }
}

impl Checked for MatchCost {
    fn checks() -> Checks<MatchCost> {
        Checks::new(|s: &MatchCost| format!("{} x [{}, {}, {}, {}]", s.b, s.q, s.g, s.k, s.p))
            .pass(
                Pass::of::<Forward<'_, Host, f32>>("", |s| 6 * s.b * s.q * s.g * s.p)
                    .sums(&["cost"], points),
            )
            .scaled("cls", 4.0)
            .scaled("x", 20.0)
            // Mostly 0 or 1, with intermediate values as from sampling.
            .given("t", |_, t| t.iter_mut().for_each(|t| *t = (2.0 * *t).clamp(0.0, 1.0)))
            .given("labels", labels)
            // One of everything, more targets than a block handles, more classes than lanes.
            .sizes([[1, 1, 1, 1, 1], [2, 3, 5, 4, 13], [2, 7, 4, 40, 700]].map(MatchCost::new))
            // More than one tile of points of the host, no whole one, and those of the recipe.
            .host_sizes(
                [
                    [1, 7, 3, 5, 13],
                    [1, 5, 2, 3, 513],
                    [1, 20, 7, 19, 1003],
                    [1, 100, 19, 19, 12544],
                ]
                .map(MatchCost::new),
            )
            .empty([[0, 3, 2, 2, 5], [1, 0, 2, 2, 5], [1, 3, 0, 2, 5]].map(MatchCost::new))
            // Ten outputs of four images at the sizes of the recipe.
            .timed_in_f32([[40, 100, 19, 19, 12544]].map(MatchCost::new))
            .timed_on_host([8, 19].map(|g| ("one image", MatchCost::new([1, 100, g, 19, 12544]))))
    }
}
