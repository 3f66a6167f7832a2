use half::bf16;

use super::{cast_gpu, scale_gpu};
use crate::check::noise;
use crate::device::{Device, Float};

fn casts<X: Float + PartialEq, Y: Float + PartialEq>() {
    let device = Device::virtual_gpu();
    let mut x = noise::<f32>(1031, 1);
    // Ties to even, overflow of bf16, a subnormal, the signs of zero, infinity.
    let special = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 3.4e38, 1e-40, -0.0, f32::INFINITY];
    x[..6].copy_from_slice(&special);
    let x: Vec<X> = x.iter().map(|&x| X::of(x)).collect();
    let source = device.upload("x", &x).unwrap();
    let mut y = device.alloc::<Y>("y", x.len()).unwrap();
    cast_gpu(&device, source.view(), y.view_mut()).unwrap();
    let want: Vec<Y> = x.iter().map(|x| Y::of(x.f32())).collect();
    assert!(device.download(y.view()).unwrap() == want, "cast{}{}", X::SUFFIX, Y::SUFFIX);
    scale_gpu(&device, -3.0, source.view(), y.view_mut()).unwrap();
    let want: Vec<Y> = x.iter().map(|x| Y::of(-3.0 * x.f32())).collect();
    assert!(device.download(y.view()).unwrap() == want, "scale{}{}", X::SUFFIX, Y::SUFFIX);
}

#[test]
fn casts_and_scales_give_the_bits_of_the_cpu() {
    casts::<f32, f32>();
    casts::<f32, bf16>();
    casts::<bf16, f32>();
    casts::<bf16, bf16>();
}
