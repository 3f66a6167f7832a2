use half::bf16;

use super::{Activation, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(f: Activation, n: usize, offset: usize) {
    let device = Device::virtual_gpu();
    // Far into both tails, and the kink of the ReLU.
    let mut x: Vec<f32> = noise::<f32>(n, 1).iter().map(|x| 6.0 * x).collect();
    x[0] = 0.0;
    let (x, exact_x) = stored::<T>(&x);
    let (dy, exact_dy) = stored::<T>(&noise(n, 2));
    let run = || {
        let (x, dy) = (device.upload("x", &x).unwrap(), device.upload("dy", &dy).unwrap());
        let mut y = device.alloc("y", n - offset).unwrap();
        let mut dx = device.alloc("dx", n - offset).unwrap();
        let part = offset..n;
        let x = x.view().slice(part.clone());
        f.forward_gpu(&device, x, y.view_mut()).unwrap();
        f.backward_gpu(&device, x, dy.view().slice(part), dx.view_mut()).unwrap();
        (device.download(y.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (x, dy) = (&exact_x[offset..], &exact_dy[offset..]);
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    reference::forward(f, x, &mut y);
    reference::backward(f, x, dy, &mut dx);
    // erff and expf are within two units of f32 (CUDA C++ Programming Guide), of values up to 2
    // and 1; the argument's own rounding moves either by at most as much again. ReLU has no
    // arithmetic.
    let units = if f == Activation::Gelu { 8.0 * UNIT } else { 0.0 };
    let what = format!("{f:?}{} [{n}] from {offset}", T::SUFFIX);
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| units * x[i].abs());
    assert_within(&format!("{what}, backward"), &got.1, &dx, |i| {
        units * dy[i].abs() * (1.0 + x[i].abs())
    });
}

#[test]
fn kernels_match_the_reference() {
    for f in [Activation::Gelu, Activation::Relu] {
        // One element, a prime, whole blocks, a view that is not aligned.
        for (n, offset) in [(1, 0), (13, 0), (4099, 0), (2048, 0), (515, 3)] {
            check::<f32>(f, n, offset);
            check::<bf16>(f, n, offset);
        }
    }
}
