//! Sizes at which the selection of uncertain points is checked and timed.

use super::{Select, UncertainPoints};
use crate::Result;
use crate::call::Host;
use crate::check::checks::{Checked, Checks, Pass};
use crate::check::verify::Timed;
use crate::device::Device;

impl Checked for UncertainPoints {
    fn checks() -> Checks<UncertainPoints> {
        let size = |(r, n_over, keep, n_rand)| UncertainPoints { r, n_over, keep, n_rand };
        let shape =
            |s: &UncertainPoints| format!("{} x {} of {} + {}", s.r, s.keep, s.n_over, s.n_rand);
        Checks::new(shape)
            // There are only comparisons, no arithmetic.
            .pass(Pass::of::<Select<'_, Host, f32>>("", |_| 0))
            .edited("logits", |s, logits| {
                logits.chunks_mut(s.n_over).enumerate().for_each(|(i, row)| edit(i, row));
            })
            // One candidate, fewer candidates than threads, several rounds, all kept, none kept.
            .sizes(
                [(4, 1, 1, 0), (8, 7, 3, 2), (4, 2500, 700, 5), (4, 1024, 1024, 1), (4, 5, 0, 3)]
                    .map(size),
            )
            .host_sizes([(4, 37632, 9408, 3136)].map(size))
            .empty([(0, 3, 2, 1), (2, 3, 0, 0)].map(size))
            .refused([(1, 1, 10, 0)].map(size))
            // Points of the recipe for four images, each with all 19 classes.
            .timed_in_f32([(4 * 19, 37632, 9408, 3136)].map(size))
            .timed_on_host([("32 pairs", size((32, 37632, 9408, 3136)))])
    }
}

/// Gives the logits of row `i` many ties of both signs and zeros of both signs, one value, or NaN,
/// or leaves them as they are.
fn edit(i: usize, row: &mut [f64]) {
    match i % 4 {
        0 => {}
        1 => row.iter_mut().for_each(|x| *x = (4.0 * *x).round()),
        2 => row.fill(1.5),
        _ => {
            row.iter_mut().for_each(|x| *x = (4.0 * *x).round());
            row.iter_mut().step_by(3).for_each(|x| *x = f64::NAN);
        }
    }
}

/// Launches of the checks. Of the candidates only those that are kept must be read.
///
/// # Errors
/// No room for their operands.
pub(crate) fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut all = UncertainPoints::checks().launches(device)?;
    all.iter_mut().for_each(|timed| timed.bytes -= 76 * 8 * (37632 - 9408));
    Ok(all)
}
