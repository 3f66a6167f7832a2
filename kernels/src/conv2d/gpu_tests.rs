use half::bf16;

use super::{Conv2d, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check<T: Float>(s: Conv2d) {
    let device = Device::virtual_gpu();
    let (ho, wo) = s.output().unwrap();
    let (pixels, places) = (s.b * s.h * s.w, s.b * ho * wo);
    let (x, exact_x) = stored::<T>(&noise(pixels * s.ci, 1));
    let (dy, exact_dy) = stored::<T>(&noise(places * s.co, 2));
    let (weight, exact_weight) = stored::<T>(&noise(s.co * s.ci * s.kh * s.kw, 3));
    let (bias, old) = (noise::<f32>(s.co, 4), noise::<f32>(weight.len(), 5));
    let run = || {
        let up = |name, x: &[T]| device.upload(name, x).unwrap();
        let (x, weight, dy) = (up("x", &x), up("weight", &weight), up("dy", &dy));
        let bias = device.upload("bias", &bias).unwrap();
        let (x, weight, dy) = (x.view(), weight.view(), dy.view());
        let mut y = device.alloc("y", places * s.co).unwrap();
        s.forward_gpu(&device, x, weight, Some(bias.view()), y.view_mut()).unwrap();
        let mut dx = device.alloc("dx", pixels * s.ci).unwrap();
        let mut dweight = device.upload("dweight", &old).unwrap();
        let mut dbias = device.upload("dbias", &old[..s.co]).unwrap();
        let (dx_out, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let db = Some(dbias.view_mut());
        s.backward_gpu(&device, Some(x), weight, dy, dx_out, dw, db).unwrap();
        let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
        let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
        (big(&y), big(&dx), down(&dweight), down(&dbias))
    };
    let got = run();
    assert_eq!(got, run());
    let mut y = vec![0.0; places * s.co];
    reference::forward(&s, &exact_x, &exact_weight, Some(&wide(&bias)), &mut y).unwrap();
    let mut dx = vec![0.0; pixels * s.ci];
    let (mut dweight, mut dbias) = (wide(&old), wide(&old[..s.co]));
    let (x, w) = (&exact_x, &exact_weight);
    reference::backward(&s, x, w, &exact_dy, &mut dx, &mut dweight, &mut dbias).unwrap();
    let what = format!("conv2d{} {s:?}", T::SUFFIX);
    // Sums of so many products below 1; the product is stored before the bias is added.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    let taps = s.kh * s.kw;
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| {
        let bias = f64::from(bias[i % s.co].abs());
        sum(taps * s.ci) + f64::from(T::ROUNDING) * (y[i].abs() + bias + sum(taps * s.ci))
    });
    assert_within(&format!("{what}, dx"), &got.1, &dx, |_| sum(taps * s.co));
    assert_within(&format!("{what}, dweight"), &got.2, &dweight, |_| sum(places));
    assert_within(&format!("{what}, dbias"), &got.3, &dbias, |_| sum(places));
}

#[test]
fn kernels_match_the_reference() {
    let s = Conv2d { b: 2, h: 7, w: 5, ci: 3, co: 4, kh: 3, kw: 3, stride: 1, pad: 1 };
    for s in [
        s,
        Conv2d { ci: 8, co: 16, ..s },
        Conv2d { stride: 2, ..s },
        Conv2d { kh: 1, kw: 2, pad: 0, ..s },
        Conv2d { kh: 1, kw: 1, pad: 0, ..s },
        Conv2d { b: 1, h: 2, w: 2, ci: 1, co: 1, kh: 2, kw: 2, stride: 2, pad: 0 },
    ] {
        check::<f32>(s);
        check::<bf16>(s);
    }
}
