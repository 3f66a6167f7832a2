use super::{Backward, Forward, PixelLoss};
use crate::call::{Call, Host};

/// Loss and `lse` of one image.
fn forward(s: &PixelLoss, x: &[f32], labels: &[u8]) -> (f32, Vec<f32>) {
    let (mut lse, mut loss) = (vec![f32::NAN; s.n], [f32::NAN]);
    Forward::<Host, _> { x, labels, lse: &mut lse, loss: &mut loss }.run(s).unwrap();
    (loss[0], lse)
}

#[test]
fn golden_number() {
    // Two of three pixels count; the mean is over all of them.
    let s = PixelLoss { b: 1, k: 2, n: 3, weight: 1.0 };
    let (loss, _) = forward(&s, &[0.0, 0.0, 9.0, 0.0, 1.0, 9.0], &[0, 1, 255]);
    let want = (2f64.ln() + (1.0 + (-1f64).exp()).ln()) / 3.0;
    assert!((f64::from(loss) - want).abs() < 1e-7, "{loss}");
}

#[test]
fn nothing_to_learn_from_gives_zero_and_nan_is_not_hidden() {
    let s = PixelLoss { b: 1, k: 3, n: 2, weight: 1.0 };
    let (x, labels, mut dx) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [255, 3], [f32::NAN; 6]);
    let (loss, lse) = forward(&s, &x, &labels);
    assert_eq!(loss, 0.0);
    let labels = &labels;
    Backward::<Host, _> { x: &x, labels, lse: &lse, dloss: &[1.0], dx: &mut dx }.run(&s).unwrap();
    assert_eq!(dx, [0.0; 6]);
    assert!(forward(&s, &[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0], &[0, 0]).0.is_nan());
}
