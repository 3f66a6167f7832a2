use half::bf16;

use super::{PatchEmbed, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check<T: Float>(s: PatchEmbed) {
    let device = Device::virtual_gpu();
    let (gh, gw) = s.grid().unwrap();
    let (tokens, width) = (s.b * gh * gw, s.channels * s.p * s.p);
    let (x, exact_x) = stored::<T>(&noise(tokens * width, 1));
    let (dy, exact_dy) = stored::<T>(&noise(tokens * s.c, 2));
    let (weight, exact_weight) = stored::<T>(&noise(s.c * width, 3));
    let (bias, old) = (noise::<f32>(s.c, 4), noise::<f32>(s.c * width, 5));
    let run = || {
        let up = |name, x: &[T]| device.upload(name, x).unwrap();
        let (x, weight, dy) = (up("x", &x), up("weight", &weight), up("dy", &dy));
        let bias = device.upload("bias", &bias).unwrap();
        let (x, weight, dy) = (x.view(), weight.view(), dy.view());
        let mut y = device.alloc("y", tokens * s.c).unwrap();
        s.forward_gpu(&device, x, weight, Some(bias.view()), y.view_mut()).unwrap();
        let mut dx = device.alloc("dx", tokens * width).unwrap();
        let mut dweight = device.upload("dweight", &old).unwrap();
        let mut dbias = device.upload("dbias", &old[..s.c]).unwrap();
        let (dx_out, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let db = Some(dbias.view_mut());
        s.backward_gpu(&device, Some(x), weight, dy, dx_out, dw, db).unwrap();
        let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
        let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
        (big(&y), big(&dx), down(&dweight), down(&dbias))
    };
    let got = run();
    assert_eq!(got, run());
    let mut y = vec![0.0; tokens * s.c];
    reference::forward(&s, &exact_x, &exact_weight, Some(&wide(&bias)), &mut y).unwrap();
    let mut dx = vec![0.0; tokens * width];
    let (mut dweight, mut dbias) = (wide(&old), wide(&old[..s.c]));
    let (x, w) = (&exact_x, &exact_weight);
    reference::backward(&s, x, w, &exact_dy, &mut dx, &mut dweight, &mut dbias).unwrap();
    let what = format!("patch_embed{} {s:?}", T::SUFFIX);
    // Sums of so many products below 1; the product is stored before the bias is added.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| {
        let bias = f64::from(bias[i % s.c].abs());
        sum(width) + f64::from(T::ROUNDING) * (y[i].abs() + bias + sum(width))
    });
    assert_within(&format!("{what}, dx"), &got.1, &dx, |_| sum(s.c));
    assert_within(&format!("{what}, dweight"), &got.2, &dweight, |_| sum(tokens));
    assert_within(&format!("{what}, dbias"), &got.3, &dbias, |_| sum(tokens));
}

#[test]
fn kernels_match_the_reference() {
    for (b, channels, h, w, p, c) in [(1, 1, 1, 1, 1, 1), (2, 3, 6, 9, 3, 5), (1, 3, 28, 14, 14, 8)]
    {
        check::<f32>(PatchEmbed { b, channels, h, w, p, c });
        check::<bf16>(PatchEmbed { b, channels, h, w, p, c });
    }
}
