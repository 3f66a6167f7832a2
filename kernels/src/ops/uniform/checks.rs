//! Sizes at which random numbers are checked and timed.

use super::{Fill, Uniform};
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};

impl Checked for Uniform {
    fn checks() -> Checks<Uniform> {
        let size = |(streams, rows, draws)| {
            let (seed, purpose, first) = (0x1234_5678_9ABC, 0x4153, 9 << 20);
            Uniform { seed, purpose, first, streams, rows, draws }
        };
        Checks::new(|s: &Uniform| format!("[{}, {}, {}]", s.streams, s.rows, s.draws))
            .named(|_| "uniform_fill")
            // Draws are multiples of 2^-24 below 1, so another one is further off than a rounding.
            .pass(Pass::of::<Fill<'_, Host, f32>>("", |_| 0))
            .given("step", |_, step| step.fill(-2.0))
            .given("rows", |_, rows| rows.iter_mut().enumerate().for_each(|(i, r)| *r = i as f64))
            // Rows out of order, one twice, one padding, one far beyond the end.
            .edited("rows", |_, rows| {
                let table = [5.0, 0.0, -1.0, 5.0, f64::from(1 << 30), 2.0, 1.0];
                rows.iter_mut().zip(table).for_each(|(row, of)| *row = of);
            })
            .sizes([(1, 1, 1), (3, 1, 26), (1, 7, 13), (2, 5, 1030)].map(size))
            .empty([(0, 1, 1), (2, 0, 4), (2, 1, 0)].map(size))
            // Candidate points of 76 pairs at the sizes of the recipe.
            .timed_in_f32([(1, 76, 2 * 37632)].map(size))
            .timed_on_host([("candidates of 76 pairs", size((1, 76, 2 * 37632)))])
    }
}
