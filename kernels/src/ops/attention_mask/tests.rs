use super::{AttentionMask, Forward};
use crate::Real;
use crate::call::{self, Call, Host};
use crate::check::noise;
use crate::ops::resize::{self, Axis, Mode, Resize, Step};

fn axis(n_in: usize, n_out: usize) -> Axis {
    Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).unwrap()
}

fn check<T: Real>() {
    for (n, h, w, ho, wo) in [(1, 1, 1, 1, 1), (5, 13, 7, 4, 9), (3, 128, 128, 16, 16)] {
        let s = AttentionMask { n, y: axis(h, ho), x: axis(w, wo) };
        let mut logits = noise::<T>(n * h * w, 1);
        // The last row is negative everywhere.
        logits[(n - 1) * h * w..].iter_mut().for_each(|v| *v = -v.abs() - T::of(0.1));
        let (x, mut resized) = (&logits[..], vec![T::ZERO; n * ho * wo]);
        let c = resize::Forward { x, y: &mut resized[..] };
        call::run::<T, resize::Forward<'_, Host, T>>(&Resize { n, ..s.row() }, c).unwrap();
        let want: Vec<u8> = resized.iter().map(|v| u8::from(v.sigmoid() < T::of(0.5))).collect();
        let (mut used, mut raw) = (vec![9; n * ho * wo], vec![9; n * ho * wo]);
        let c = Forward { logits: x, used: &mut used[..], raw: Some(&mut raw[..]) };
        call::run::<T, Forward<'_, Host, T>>(&s, c).unwrap();
        assert_eq!(raw, want);
        let (last, others) = (&used[(n - 1) * ho * wo..], &used[..(n - 1) * ho * wo]);
        assert!(last.iter().all(|&v| v == 0), "a row without open keys stays blocked");
        assert_eq!(others, &want[..others.len()]);
    }
}

#[test]
fn flags_follow_the_sigmoid_and_full_rows_open() {
    check::<f32>();
    check::<f64>();
}

#[test]
fn a_logit_whose_sigmoid_rounds_to_one_half_is_open() {
    let s = AttentionMask { n: 1, y: axis(1, 1), x: axis(7, 7) };
    let edge = -(2f32.powi(-24));
    let logits = [0.0, -0.0, 1.0, edge, edge * (1.0 + f32::EPSILON), -1e-30, -2e-7];
    let mut used = [9; 7];
    Forward::<Host, _> { logits: &logits, used: &mut used, raw: None }.run(&s).unwrap();
    assert_eq!(used, [0, 0, 0, 0, 1, 0, 1]);
    // The same with the sigmoid in f64, rounded once.
    let rounded = |v: f32| ((1.0 / (1.0 + (-f64::from(v)).exp())) as f32) < 0.5;
    assert_eq!(used.map(|u| u == 1), logits.map(rounded));
}
