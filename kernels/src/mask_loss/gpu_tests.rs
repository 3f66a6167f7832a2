use half::bf16;

use super::{MaskLoss, MaskLosses, Pairs};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(r: usize, p: usize, padding: usize) {
    let device = Device::virtual_gpu();
    let all = r + padding;
    let s = MaskLoss::new(all, p);
    let x: Vec<f32> = noise::<f32>(all * p, 1).iter().map(|v| 9.0 * v).collect();
    let (x, exact_x) = stored::<T>(&x);
    // Targets are mostly 0 or 1, with the values between that sampling gives.
    let t: Vec<f32> = noise::<f32>(all * p, 2).iter().map(|v| (2.0 * v).clamp(0.0, 1.0)).collect();
    let exact_t: Vec<f64> = t.iter().map(|&t| f64::from(t)).collect();
    let mut weights = vec![1.0f32; r];
    weights.resize(all, 0.0);
    let run = || {
        let (x, t) = (device.upload("x", &x).unwrap(), device.upload("t", &t).unwrap());
        let weights = device.upload("weights", &weights).unwrap();
        let num = device.upload("num", &[3.5f32]).unwrap();
        let dlosses = device.upload("dlosses", &[0.75f32, -1.25]).unwrap();
        let weights = (padding > 0).then(|| weights.view());
        let pairs = Pairs { x: x.view(), t: t.view(), weights, num: num.view() };
        let mut sums = device.alloc("sums", 4 * all).unwrap();
        let mut losses = device.alloc("losses", 2).unwrap();
        let mut dx = device.alloc("dx", all * p).unwrap();
        s.forward_gpu(&device, pairs, sums.view_mut(), losses.view_mut()).unwrap();
        s.backward_gpu(&device, pairs, sums.view(), dlosses.view(), dx.view_mut()).unwrap();
        (device.download(losses.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let real = MaskLoss::new(r, p);
    let (exact_x, exact_t) = (&exact_x[..r * p], &exact_t[..r * p]);
    let mut sums = vec![0.0; 3 * r];
    let losses = real.forward(exact_x, exact_t, 3.5, &mut sums).unwrap();
    let mut dx = vec![0.0; r * p];
    let d = MaskLosses { mask: 0.75, dice: -1.25 };
    real.backward(exact_x, exact_t, 3.5, &sums, d, &mut dx).unwrap();
    dx.resize(all * p, 0.0);
    let what = format!("mask_loss{} [{r} + {padding}, {p}]", T::SUFFIX);
    // Sums over the points of a thread, a warp, the warps, then over the pairs; a dozen operations
    // and functions for each term. Terms of the cross-entropy are differences of values up to 9.
    let depth = p.div_ceil(256) as f64 + 5.0 + 8.0 + 12.0 + all.div_ceil(256) as f64 + 13.0;
    let size: f64 = exact_x.iter().map(|x| 2.0 * x.abs() + 1.0).sum();
    let bounds = [5.0 / 3.5 / p as f64 * size, 5.0 / 3.5 * 2.0 * r as f64];
    let want = [losses.mask, losses.dice];
    assert_within(&format!("{what}, forward"), &got.0, &want, |i| depth * UNIT * bounds[i]);
    assert_within(&format!("{what}, backward"), &got.1, &dx, |i| {
        if i >= r * p {
            return 0.0;
        }
        let den = sums[i / p * 3] + sums[i / p * 3 + 1] + 1.0;
        let mask = 0.75 * 5.0 / 3.5 / p as f64;
        let dice = 1.25 * 5.0 / 3.5 * 3.0 / den;
        2.0 * depth * UNIT * (mask + dice)
    });
}

#[test]
fn kernels_match_the_reference() {
    for (r, p, padding) in [(1, 1, 0), (3, 13, 0), (5, 1000, 2), (300, 7, 1)] {
        check::<f32>(r, p, padding);
        check::<bf16>(r, p, padding);
    }
}

#[test]
fn no_pairs_give_zero_losses() {
    let device = Device::virtual_gpu();
    let s = MaskLoss::new(0, 100);
    let none = device.zeros::<f32>("none", 0).unwrap();
    let num = device.upload("num", &[1.0f32]).unwrap();
    let pairs = Pairs { x: none.view(), t: none.view(), weights: None, num: num.view() };
    let mut sums = device.alloc("sums", 0).unwrap();
    let mut losses = device.alloc("losses", 2).unwrap();
    s.forward_gpu(&device, pairs, sums.view_mut(), losses.view_mut()).unwrap();
    assert_eq!(device.download(losses.view()).unwrap(), [0.0, 0.0]);
}
