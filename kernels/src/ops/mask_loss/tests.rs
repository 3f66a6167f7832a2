use super::{Forward, MaskLoss};
use crate::call::{Call, Host};
use crate::check::{assert_close, noise, wide};
use crate::{Real, Result};

/// Sums, and losses of pairs with the weight 1 that are divided by `num`.
fn forward<T: Real>(s: &MaskLoss, x: &[T], t: &[T], num: T) -> Result<(Vec<T>, [T; 2])> {
    let nan = T::of(f64::NAN);
    let (mut sums, mut losses) = (vec![nan; 4 * s.r], [nan; 2]);
    let (sums_out, num) = (&mut sums[..], &[num][..]);
    Forward::<Host, T> { x, t, num, weights: None, sums: sums_out, losses: &mut losses }.run(s)?;
    Ok((sums, losses))
}

#[test]
fn golden_numbers() {
    // Spec mask2former §8, pairs (X0, T0) and (X1, T1).
    let x = [2.0f32, -1.0, 0.5, 0.0, -3.0, 1.0, 0.25, 4.0];
    let t = [1.0f32, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0];
    let (_, losses) = forward(&MaskLoss::new(2, 4), &x, &t, 2.0).unwrap();
    assert!((losses[0] - 4.2583).abs() < 6e-5, "{losses:?}");
    assert!((losses[1] - 1.4167).abs() < 6e-5, "{losses:?}");
}

#[test]
fn fast_sums_are_accurate() {
    for (r, p) in [(1, 1), (3, 13), (5, 31), (7, 12544)] {
        let s = MaskLoss::new(r, p);
        let x: Vec<f32> = noise::<f32>(r * p, 1).iter().map(|v| v * 20.0).collect();
        let t: Vec<f32> = noise::<f32>(r * p, 2).iter().map(|v| (v * 1.4).abs().min(1.0)).collect();
        let (sums, losses) = forward(&s, &x, &t, r as f32).unwrap();
        let (exact, want) = forward(&s, &wide(&x), &wide(&t), r as f64).unwrap();
        for i in 0..4 {
            let column = |sums: &[f64]| sums.iter().skip(i).step_by(4).copied().collect::<Vec<_>>();
            assert_close("sums", &column(&wide(&sums)), &column(&exact), 1e-6);
        }
        assert_close("losses", &wide(&losses), &want, 2e-6);
    }
}

#[test]
fn what_gives_no_loss_is_named() {
    let error = forward::<f32>(&MaskLoss::new(2, 0), &[], &[], 2.0).unwrap_err();
    assert_eq!(error.to_string(), "mask_loss: there are no points");
    let s = MaskLoss::new(0, 1);
    for num in [0.0, f64::NAN, f64::INFINITY] {
        let want = format!("mask_loss: the losses cannot be divided by {num} pairs");
        assert_eq!(s.check_num(num).unwrap_err().to_string(), want);
    }
    s.check_num(0.5).unwrap();
}
