use super::{MaskLoss, MaskLosses, cpu, reference};
use crate::check::{assert_close, central_differences, noise};

fn targets<T: crate::Real>(n: usize, seed: u64) -> Vec<T> {
    noise::<T>(n, seed).iter().map(|v| (*v * T::of(1.4)).abs().min(T::ONE)).collect()
}

#[test]
fn golden_numbers() {
    // Spec mask2former §8, pairs (X0, T0) and (X1, T1).
    let x = [2.0f32, -1.0, 0.5, 0.0, -3.0, 1.0, 0.25, 4.0];
    let t = [1.0f32, 0.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.0];
    let s = MaskLoss::new(2, 4);
    let losses = s.forward(&x, &t, 2.0, &mut [0.0; 6]).unwrap();
    assert!((losses.mask - 4.2583).abs() < 6e-5, "{losses:?}");
    assert!((losses.dice - 1.4167).abs() < 6e-5, "{losses:?}");
}

#[test]
fn gradient_matches_central_differences() {
    for (r, p, num) in [(1, 1, 1.0), (3, 7, 3.0), (2, 33, 1.25)] {
        let s = MaskLoss::new(r, p);
        let x: Vec<f64> = noise::<f64>(r * p, 1).iter().map(|v| v * 5.0).collect();
        let t = targets::<f64>(r * p, 2);
        let dloss = MaskLosses { mask: 0.83, dice: -1.7 };
        let mut sums = vec![f64::NAN; r * 3];
        s.forward(&x, &t, num, &mut sums).unwrap();
        let mut dx = vec![f64::NAN; r * p];
        s.backward(&x, &t, num, &sums, dloss, &mut dx).unwrap();
        central_differences("mask_loss", &[x], &[dx], |inputs| {
            let losses = s.forward(&inputs[0], &t, num, &mut vec![0.0; r * 3]).unwrap();
            dloss.mask * losses.mask + dloss.dice * losses.dice
        });
    }
}

#[test]
fn fast_form_matches_reference_in_f64() {
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    for (r, p) in [(1, 1), (3, 13), (5, 31), (7, 12544)] {
        let s = MaskLoss::new(r, p);
        let x: Vec<f32> = noise::<f32>(r * p, 1).iter().map(|v| v * 20.0).collect();
        let t = targets::<f32>(r * p, 2);
        let (mut sums, mut exact) = (vec![f32::NAN; r * 3], vec![f64::NAN; r * 3]);
        let total = cpu::forward(&s, &x, &t, &mut sums);
        let want = reference::forward(&s, &wide(&x), &wide(&t), &mut exact);
        assert_close("total", &[f64::from(total)], &[want], 2e-6);
        assert_close("sums", &wide(&sums), &exact, 1e-6);
        let (mut dx, mut want) = (vec![f32::NAN; r * p], vec![f64::NAN; r * p]);
        // Gradients of the sums: those of the dice loss are 1 / p of the others, so they get a
        // weight that makes both matter.
        let d = MaskLosses { mask: 0.4, dice: 0.7 * p as f32 };
        cpu::backward(&s, &x, &t, &sums, d, &mut dx);
        let d = MaskLosses { mask: f64::from(d.mask), dice: f64::from(d.dice) };
        reference::backward(&s, &wide(&x), &wide(&t), &exact, d, &mut want);
        assert_close("dx", &wide(&dx), &want, 2e-6);
    }
}

#[test]
fn no_pairs_give_zero() {
    let s = MaskLoss::new(0, 12544);
    let losses = s.forward::<f32>(&[], &[], 1.0, &mut []).unwrap();
    assert_eq!(losses, MaskLosses { mask: 0.0, dice: 0.0 });
    s.backward(&[], &[], 1.0, &[], losses, &mut []).unwrap();
}

#[test]
fn a_bad_divisor_is_named() {
    for num in [0.0, f64::NAN, f64::INFINITY] {
        let error = MaskLoss::new(0, 1).forward::<f32>(&[], &[], num, &mut []).unwrap_err();
        let want = format!("mask_loss: the losses cannot be divided by {num} pairs");
        assert_eq!(error.to_string(), want);
    }
}
