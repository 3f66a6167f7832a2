use half::bf16;

use super::GatherRows;
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(n: usize, c: usize, indices: &[i32]) {
    let device = Device::virtual_gpu();
    let s = GatherRows { n, r: indices.len(), c };
    let (x, exact_x) = stored::<T>(&noise(n * c, 1));
    let (dy, exact_dy) = stored::<T>(&noise(s.r * c, 2));
    let run = || {
        let (x, dy) = (device.upload("x", &x).unwrap(), device.upload("dy", &dy).unwrap());
        let indices = device.upload("indices", indices).unwrap();
        let mut y = device.alloc("y", s.r * c).unwrap();
        let mut dx = device.alloc("dx", n * c).unwrap();
        s.forward_gpu(&device, x.view(), indices.view(), y.view_mut()).unwrap();
        s.backward_gpu(&device, indices.view(), dy.view(), dx.view_mut()).unwrap();
        (device.download(y.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut y, mut dx) = (vec![f64::NAN; s.r * c], vec![f64::NAN; n * c]);
    s.forward(&exact_x, indices, &mut y).unwrap();
    s.backward(indices, &exact_dy, &mut dx).unwrap();
    let what = format!("gather_rows{} [{n}, {c}] {} rows", T::SUFFIX, s.r);
    // Copies are exact; a gradient is a sum of at most three values below 1.
    assert_within(&format!("{what}, forward"), &got.0, &y, |_| 0.0);
    assert_within(&format!("{what}, backward"), &got.1, &dx, |_| 3.0 * UNIT);
}

#[test]
fn kernels_match_the_reference() {
    for (n, c) in [(1, 1), (7, 13), (5, 300)] {
        // A row thrice, rows that are none.
        for indices in [&[0][..], &[0, -1, 4, 0, 0, 7, 3, i32::MAX, i32::MIN], &[]] {
            check::<f32>(n, c, indices);
            check::<bf16>(n, c, indices);
        }
    }
}
