use super::{Forward, MaskLoss};
use crate::call::{Call, Host};

/// Losses of pairs with the weight 1, divided by `num`.
fn losses(s: &MaskLoss, x: &[f32], t: &[f32], num: f32) -> crate::Result<[f32; 2]> {
    let (mut sums, mut losses) = (vec![f32::NAN; 4 * s.r], [f32::NAN; 2]);
    let (sums, num) = (&mut sums[..], &[num][..]);
    Forward::<Host, _> { x, t, num, weights: None, sums, losses: &mut losses }.run(s)?;
    Ok(losses)
}

#[test]
fn golden_numbers() {
    // Spec mask2former §8, pairs (X0, T0) and (X1, T1).
    let x = [2.0f32, -1.0, 0.5, 0.0, -3.0, 1.0, 0.25, 4.0];
    let t = [1.0f32, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0];
    let losses = losses(&MaskLoss::new(2, 4), &x, &t, 2.0).unwrap();
    assert!((losses[0] - 4.2583).abs() < 6e-5, "{losses:?}");
    assert!((losses[1] - 1.4167).abs() < 6e-5, "{losses:?}");
}

#[test]
fn what_gives_no_loss_is_named() {
    let error = losses(&MaskLoss::new(2, 0), &[], &[], 2.0).unwrap_err();
    assert_eq!(error.to_string(), "mask_loss: there are no points");
    let s = MaskLoss::new(0, 1);
    for num in [0.0, f64::NAN, f64::INFINITY] {
        let want = format!("mask_loss: the losses cannot be divided by {num} pairs");
        assert_eq!(s.check_num(num).unwrap_err().to_string(), want);
    }
    s.check_num(0.5).unwrap();
}
