use half::bf16;

use super::{AttentionMask, AttentionMaskGpu, THRESHOLD};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};
use crate::resize::{Axis, AxisGpu, Mode, Resize, Step};

fn check<T: Float>(n: usize, [h, w, ho, wo]: [usize; 4]) {
    let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).unwrap();
    let (y, x) = (axis(h, ho), axis(w, wo));
    let device = Device::virtual_gpu();
    let mut logits = noise::<f32>(n * h * w, 1);
    // The last row is negative throughout.
    logits[(n - 1) * h * w..].iter_mut().for_each(|v| *v = -v.abs() - 0.1);
    let (logits, exact) = stored::<T>(&logits);
    let (rows, columns) = (AxisGpu::new(&device, &y).unwrap(), AxisGpu::new(&device, &x).unwrap());
    let s = AttentionMaskGpu { n, y: &rows, x: &columns };
    let logits = device.upload("logits", &logits).unwrap();
    let mut used = device.alloc("used", n * ho * wo).unwrap();
    let mut raw = device.alloc("raw", n * ho * wo).unwrap();
    let out = Some(raw.view_mut());
    s.compute(&device, logits.view(), used.view_mut(), out).unwrap();
    let (got, got_raw) =
        (device.download(used.view()).unwrap(), device.download(raw.view()).unwrap());
    s.compute(&device, logits.view(), used.view_mut(), None).unwrap();
    assert_eq!(device.download(used.view()).unwrap(), got);
    let (mut want, mut want_raw) = (vec![9; n * ho * wo], vec![9; n * ho * wo]);
    let cpu = AttentionMask { n, y: &y, x: &x };
    cpu.compute(&exact, &mut want, Some(&mut want_raw)).unwrap();
    let mut values = vec![0.0; n * ho * wo];
    Resize { n, c: 1, y: &y, x: &x }.forward(&exact, &mut values).unwrap();
    // Four taps of values up to 1.1: within this of the threshold either flag is right.
    let sure = |i: usize| (values[i] - THRESHOLD).abs() > 8.0 * UNIT;
    let mut unsure = 0;
    for i in 0..n * ho * wo {
        assert!(!sure(i) || (got[i], got_raw[i]) == (want[i], want_raw[i]), "key {i}");
        unsure += usize::from(!sure(i));
    }
    assert!(unsure * 100 <= n * ho * wo, "{unsure} keys lie at the threshold");
    assert!(got[(n - 1) * ho * wo..].iter().all(|&v| v == 0), "a row without keys stays blocked");
    println!("attention_mask{} {n} x {h}x{w} to {ho}x{wo}: equal, {unsure} unsure", T::SUFFIX);
}

#[test]
fn flags_match_the_reference() {
    for (n, sizes) in [(1, [1, 1, 1, 1]), (5, [13, 7, 4, 9]), (3, [32, 32, 20, 17])] {
        check::<f32>(n, sizes);
        check::<bf16>(n, sizes);
    }
}
