//! Sizes at which residual connections are checked and timed.

use super::{Backward, Forward, GammaGradient, Residual, cpu};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Depth, Pass};
use crate::device::sizes::RowSplit;

/// Additions over the rows.
fn column(s: &Residual) -> Depth {
    let host = s.n.min(cpu::ROWS) + s.n.div_ceil(cpu::ROWS);
    Depth { device: RowSplit::of(s.n).depth(), host: host as f64 }
}

impl Checked for Residual {
    fn checks() -> Checks<Residual> {
        let size = |(n, c)| Residual { n, c };
        Checks::new(|s: &Residual| format!("[{}, {}]", s.n, s.c))
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 3 * s.n * s.c))
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| s.n * s.c))
            .pass(
                Pass::of::<GammaGradient<'_, Host, f32>>("columns", |s| 3 * s.n * s.c)
                    .sums(&["dgamma"], column),
            )
            .gradients([(3, 5)].map(size))
            // One element, no whole vector, more than one row split, more than one block of columns.
            .sizes([(1, 1), (7, 13), (70, 40), (131, 264)].map(size))
            // More rows than one task of the host handles.
            .host_sizes([(3, 48), (257, 384)].map(size))
            .empty([(0, 3), (2, 0)].map(size))
            // Tokens of four 512 px images of ViT-L, and of one.
            .timed([(4 * 1025, 1024)].map(size))
            .timed_on_host([
                ("ViT-S", size((1025, 384))),
                ("ViT-B", size((1025, 768))),
                ("ViT-L", size((1025, 1024))),
            ])
    }
}
