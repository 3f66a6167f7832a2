use super::{PixelLoss, cpu, reference};
use crate::check::{assert_close, central_differences, noise};
use crate::device::Device;

const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [2, 5, 7], [1, 19, 513], [2, 3, 1025], [1, 300, 40]];

fn labels(s: &PixelLoss) -> Vec<u8> {
    (0..s.b * s.n).map(|i| if i % 5 == 3 { 255 } else { (i * 7 % s.k.min(255)) as u8 }).collect()
}

#[test]
fn golden_number() {
    // Two of three pixels count; the mean is over all of them.
    let s = PixelLoss { b: 1, k: 2, n: 3, weight: 1.0 };
    let x = [0.0f32, 0.0, 9.0, 0.0, 1.0, 9.0];
    let loss = s.forward(&x, &[0, 1, 255], &mut [0.0; 3]).unwrap();
    let want = (2f64.ln() + (1.0 + (-1f64).exp()).ln()) / 3.0;
    assert!((f64::from(loss) - want).abs() < 1e-7, "{loss}");
}

#[test]
fn gradient_matches_central_differences() {
    for [b, k, n] in [[1, 1, 1], [2, 5, 7]] {
        let s = PixelLoss { b, k, n, weight: 0.5 };
        let x: Vec<f64> = noise::<f64>(b * k * n, 1).iter().map(|v| v * 4.0).collect();
        let (labels, mut lse, mut dx) = (labels(&s), vec![0.0; b * n], vec![f64::NAN; b * k * n]);
        s.forward(&x, &labels, &mut lse).unwrap();
        s.backward(&x, &labels, &lse, 0.37, &mut dx).unwrap();
        central_differences("pixel_loss", &[x], &[dx], |x| {
            0.37 * s.forward(&x[0], &labels, &mut vec![0.0; b * n]).unwrap()
        });
    }
}

#[test]
fn fast_form_matches_reference() {
    for [b, k, n] in SHAPES {
        let s = PixelLoss { b, k, n, weight: 1.0 };
        let x: Vec<f32> = noise::<f32>(b * k * n, 1).iter().map(|v| v * 30.0).collect();
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let (labels, mut lse, mut exact) = (labels(&s), vec![f32::NAN; b * n], vec![0.0; b * n]);
        let loss = cpu::forward(&s, &x, &labels, &mut lse);
        let want = reference::forward(&s, &wide, &labels, &mut exact);
        assert_close("loss", &[f64::from(loss)], &[want], 1e-6);
        let wide_lse: Vec<f64> = lse.iter().map(|&v| f64::from(v)).collect();
        assert_close("lse", &wide_lse, &exact, 1e-6);
        let (mut dx, mut want) = (vec![f32::NAN; x.len()], vec![0.0; x.len()]);
        cpu::backward(&s, &x, &labels, &lse, 0.5, &mut dx);
        reference::backward(&s, &wide, &labels, &exact, 0.5, &mut want);
        let dx: Vec<f64> = dx.iter().map(|&v| f64::from(v)).collect();
        // A logit of 30 has a rounding error of 2e-6 when `lse` is subtracted.
        assert_close("dx", &dx, &want, 5e-6);
    }
}

#[test]
fn nothing_to_learn_from_gives_zero_and_nan_is_not_hidden() {
    let s = PixelLoss { b: 1, k: 3, n: 2, weight: 1.0 };
    let (mut lse, mut dx) = ([0.0f32; 2], [f32::NAN; 6]);
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(s.forward(&x, &[255, 3], &mut lse).unwrap(), 0.0);
    s.backward(&x, &[255, 3], &lse, 1.0, &mut dx).unwrap();
    assert_eq!(dx, [0.0; 6]);
    assert!(s.forward(&[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0], &[0, 0], &mut lse).unwrap().is_nan());
    let s = PixelLoss { b: 2, k: 3, n: 0, weight: 1.0 };
    assert_eq!(s.forward::<f32>(&[], &[], &mut []).unwrap(), 0.0);
    s.backward::<f32>(&[], &[], &[], 1.0, &mut []).unwrap();
}

#[test]
fn wrong_lengths_are_named_in_both_places() {
    let s = PixelLoss { b: 1, k: 3, n: 2, weight: 1.0 };
    let error = s.forward(&[0.0f32; 6], &[0], &mut [0.0; 2]).unwrap_err();
    let want = "pixel_loss: labels has 1 elements, its sizes require 2";
    assert_eq!(error.to_string(), want);
    let device = Device::virtual_gpu();
    let (x, labels) = (device.zeros::<f32>("x", 6).unwrap(), device.zeros("labels", 1).unwrap());
    let (mut lse, mut loss) = (device.zeros("lse", 2).unwrap(), device.zeros("loss", 1).unwrap());
    let (lse, loss) = (lse.view_mut(), loss.view_mut());
    let error = s.forward_gpu(&device, x.view(), labels.view(), lse, loss).unwrap_err();
    assert_eq!(error.to_string(), want);
}
