use super::{Forward, Softmax};
use crate::call::{Call, Host};

#[test]
fn large_logits_and_damaged_ones() {
    let s = Softmax { n: 3, c: 3 };
    let x = [1000.0f32, 1000.0, -1000.0, 0.0, f32::NEG_INFINITY, 0.0, 1.0, f32::NAN, 0.0];
    let mut y = [0.0; 9];
    Forward::<Host, _> { x: &x, y: &mut y }.run(&s).unwrap();
    assert_eq!(y[..6], [0.5, 0.5, 0.0, 0.5, 0.0, 0.5]);
    assert!(y[6..].iter().all(|y| y.is_nan()), "{y:?} hides a NaN");
}
