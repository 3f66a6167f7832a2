//! Sizes at which changes of the row width are checked and timed.

use super::{Resize, RowWidth};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for RowWidth {
    fn checks() -> Checks<RowWidth> {
        Checks::new(shape)
            // One product, rounded once: the nearest value of the type.
            .pass(
                Pass::of::<Resize<'_, Host, f32>>("", |_| 0)
                    .bound("y", |s, _, _| vec![0.0; s.n * s.to]),
            )
            .sizes([
                RowWidth::new(1, 1, 1),
                RowWidth::new(7, 13, 32).scaled(2, 6, 2.0),
                RowWidth::new(96, 32, 13),
                RowWidth::new(50, 48, 64).scaled(1, 1, 0.5),
                RowWidth::new(3, 5, 0),
                RowWidth::new(4, 0, 3),
            ])
            .empty([RowWidth::new(0, 2, 3)])
            // Heads of 16 channels widened for four images of 1024 tokens with 3 x 24 heads.
            .timed([RowWidth::new(4 * 1024 * 3 * 24, 16, 32)])
    }
}

fn shape(s: &RowWidth) -> String {
    let RowWidth { n, from, to, period, scaled, factor } = s;
    format!("[{n}, {from} to {to}], {scaled} of {period} times {factor}")
}
