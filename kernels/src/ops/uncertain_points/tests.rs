use super::{Select, UncertainPoints};
use crate::call::{Call, Host};

#[test]
fn a_nan_is_selected_last() {
    let s = UncertainPoints { r: 1, n_over: 3, keep: 2, n_rand: 0 };
    let points = [0.1f32, 0.1, 0.2, 0.2, 0.3, 0.3];
    let mut out = [0.0; 4];
    let logits = &[f32::NAN, 5.0, -f32::INFINITY];
    Select::<Host, _> { logits, points: &points, random: &[], out: &mut out }.run(&s).unwrap();
    assert_eq!(out, [0.2, 0.2, 0.3, 0.3]);
}

#[test]
fn keeping_more_than_there_are_is_refused() {
    let s = UncertainPoints { r: 1, n_over: 1, keep: 2, n_rand: 0 };
    let error = Select::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "uncertain_points: 2 of 1 points cannot be kept");
}
