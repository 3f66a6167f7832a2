use half::bf16;

use super::{Swiglu, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(n: usize, h: usize) {
    let device = Device::virtual_gpu();
    let s = Swiglu { n, h };
    let x: Vec<f32> = noise::<f32>(2 * n * h, 1).iter().map(|x| 8.0 * x).collect();
    let (x, exact_x) = stored::<T>(&x);
    let (dy, exact_dy) = stored::<T>(&noise(n * h, 2));
    let run = || {
        let (x, dy) = (device.upload("x", &x).unwrap(), device.upload("dy", &dy).unwrap());
        let mut y = device.alloc("y", n * h).unwrap();
        let mut dx = device.alloc("dx", 2 * n * h).unwrap();
        s.forward_gpu(&device, x.view(), y.view_mut()).unwrap();
        s.backward_gpu(&device, x.view(), dy.view(), dx.view_mut()).unwrap();
        (device.download(y.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut y, mut dx) = (vec![0.0; n * h], vec![0.0; 2 * n * h]);
    reference::forward(&s, &exact_x, &mut y);
    reference::backward(&s, &exact_x, &exact_dy, &mut dx);
    // expf is within two units; sum, quotient and products add one each. 1 - sigmoid(u) cancels,
    // so its error is one of the sigmoid, multiplied by u.
    let what = format!("swiglu{} [{n}, {h}]", T::SUFFIX);
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| 8.0 * UNIT * y[i].abs());
    assert_within(&format!("{what}, backward"), &got.1, &dx, |i| {
        let (row, j) = (i / (2 * h), i % h);
        let (u, v) = (exact_x[row * 2 * h + j], exact_x[row * 2 * h + h + j]);
        16.0 * UNIT * exact_dy[row * h + j].abs() * (v.abs() * (1.0 + u.abs()) + u.abs())
    });
}

#[test]
fn kernels_match_the_reference() {
    for (n, h) in [(1, 1), (7, 13), (37, 256), (3, 264)] {
        check::<f32>(n, h);
        check::<bf16>(n, h);
    }
}
