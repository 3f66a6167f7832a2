//! Sizes at which attention masks are checked and timed.

use super::{AttentionMask, Forward, THRESHOLD};
use crate::call::{Call, Host};
use crate::check::UNIT;
use crate::check::checks::{Arithmetic, Checked, Checks, Pass};
use crate::check::operands::Values;
use crate::ops::resize::{self, Axis, Mode, Resize, Step};

/// Bounds of flags: either one is right within the error of four taps of values up to 1.1 of the
/// threshold. That may be one key in a hundred at most.
fn flags(s: &AttentionMask, _of: Arithmetic, known: &Values) -> Vec<f64> {
    let (x, mut values) = (&known["logits"][..], vec![0.0; s.keys()]);
    let resize = Resize { n: s.n, ..s.row() };
    resize::Forward::<Host, f64>::reference(&resize, resize::Forward { x, y: &mut values[..] });
    let unsure = |v: &f64| f64::from(u8::from((v - THRESHOLD).abs() <= 8.0 * UNIT));
    let bounds: Vec<f64> = values.iter().map(unsure).collect();
    if bounds.iter().sum::<f64>() * 100.0 <= s.keys() as f64 { bounds } else { vec![0.0; s.keys()] }
}

/// Makes the last row negative everywhere.
fn closed(s: &AttentionMask, logits: &mut [f64]) {
    let first = s.n.saturating_sub(1) * s.y.n_in() * s.x.n_in();
    logits[first..].iter_mut().for_each(|v| *v = -v.abs() - 0.1);
}

impl Checked for AttentionMask {
    fn checks() -> Checks<AttentionMask> {
        let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).ok();
        let size = |(n, h, w, ho, wo)| Some(AttentionMask { n, y: axis(h, ho)?, x: axis(w, wo)? });
        let decoder = |n, to| size((n, 128, 128, to, to));
        Checks::new(|s: &AttentionMask| {
            let [h, w, ho, wo] = [s.y.n_in(), s.x.n_in(), s.y.n_out(), s.x.n_out()];
            format!("{} x [{h}, {w}] to [{ho}, {wo}]", s.n)
        })
        .pass(
            Pass::of::<Forward<'_, Host, f32>>("", |s| 12 * s.keys())
                .bound("used", flags)
                .bound("raw", flags),
        )
        .given("logits", closed)
        .sizes(
            [(1, 1, 1, 1, 1), (5, 13, 7, 4, 9), (3, 32, 32, 20, 17)].into_iter().filter_map(size),
        )
        .host_sizes([(3, 128, 128, 16, 16)].into_iter().filter_map(size))
        .empty([(0, 13, 7, 4, 9)].into_iter().filter_map(size))
        // Finest level of the mask decoder for four 512 px images and 100 queries.
        .timed_in_f32(decoder(400, 64))
        .timed_on_host(
            [16, 32, 64].into_iter().filter_map(|to| Some(("4 x 100 queries", decoder(400, to)?))),
        )
    }
}
