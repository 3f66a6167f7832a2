use half::bf16;

use super::{Add, cast_gpu, reference, scale_gpu};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::sizes::Pieces;
use crate::device::{Device, Float};
use crate::matmul::Beta;

fn check<T: Float, B: Float>(n: usize, inner: usize) {
    let device = Device::virtual_gpu();
    let s = Add { n, inner };
    let (a, exact_a) = stored::<T>(&noise(n * inner, 1));
    let (b, exact_b) = stored::<B>(&noise(inner, 2));
    let run = || {
        let (a, b) = (device.upload("a", &a).unwrap(), device.upload("b", &b).unwrap());
        let mut y = device.alloc("y", n * inner).unwrap();
        s.forward_gpu(&device, a.view(), b.view(), y.view_mut()).unwrap();
        let mut place = device.alloc("place", n * inner).unwrap();
        device.copy(a.view(), place.view_mut()).unwrap();
        s.in_place_gpu(&device, place.view_mut(), b.view()).unwrap();
        assert_eq!(device.download(place.view()).unwrap(), device.download(y.view()).unwrap());
        let mut db = device.alloc("db", inner).unwrap();
        s.backward_b_gpu(&device, a.view(), Beta::Overwrite, db.view_mut()).unwrap();
        (device.download(y.view()).unwrap(), device.download(db.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut y, mut db) = (vec![0.0; n * inner], vec![0.0; inner]);
    reference::forward(&s, &exact_a, &exact_b, &mut y);
    reference::backward_b(&s, &exact_a, &mut db);
    let what = format!("add{}{} [{n}, {inner}]", T::SUFFIX, B::SUFFIX);
    // One operation; the rounding to the storage is counted beside it.
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| UNIT * y[i].abs());
    let depth = Pieces::of(n).depth();
    assert_within(&format!("{what}, backward"), &got.1, &db, |j| {
        depth * UNIT * (0..n).map(|i| exact_a[i * inner + j].abs()).sum::<f64>()
    });
}

#[test]
fn kernels_match_the_reference() {
    for (n, inner) in [(1, 1), (7, 13), (70, 40), (2, 5001), (1, 2048)] {
        check::<f32, f32>(n, inner);
        check::<bf16, f32>(n, inner);
        check::<bf16, bf16>(n, inner);
    }
}

fn casts<X: Float + PartialEq, Y: Float + PartialEq>() {
    let device = Device::virtual_gpu();
    let mut x = noise::<f32>(1031, 1);
    // Ties to even, overflow of bf16, a subnormal, the signs of zero, infinity.
    let special = [1.003_906_25, 1.011_718_75, 3.4e38, 1e-40, -0.0, f32::INFINITY];
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
