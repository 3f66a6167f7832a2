use half::bf16;

use super::{Axis, AxisGpu, Mode, Resize, ResizeGpu, Step};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(n: usize, c: usize, y: &Axis, x: &Axis) {
    let device = Device::virtual_gpu();
    let s = Resize { n, c, y, x };
    let (input, exact) = stored::<T>(&noise(s.input_len(), 1));
    let (dy, exact_dy) = stored::<T>(&noise(s.output_len(), 2));
    let (rows, columns) = (AxisGpu::new(&device, y).unwrap(), AxisGpu::new(&device, x).unwrap());
    let gpu = ResizeGpu { n, c, y: &rows, x: &columns };
    let run = || {
        let (x, dy) = (device.upload("x", &input).unwrap(), device.upload("dy", &dy).unwrap());
        let mut y = device.alloc("y", s.output_len()).unwrap();
        let mut dx = device.alloc("dx", s.input_len()).unwrap();
        gpu.forward(&device, x.view(), y.view_mut()).unwrap();
        gpu.backward(&device, dy.view(), dx.view_mut()).unwrap();
        (device.download(y.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut want, mut want_dx) = (vec![0.0; s.output_len()], vec![0.0; s.input_len()]);
    s.forward(&exact, &mut want).unwrap();
    s.backward(&exact_dy, &mut want_dx).unwrap();
    // Each weight is rounded, their product as well, and a sum over all taps of values up to 1.
    // Cubic weights are at most 1.2, the rows of a transposed table sum to the scale.
    let bound = |y: &super::Taps, x: &super::Taps| {
        let taps = (y.width * x.width) as f64;
        (taps + 3.0) * UNIT * taps.min(1.5 * (y.n_in * x.n_in) as f64)
    };
    let sizes = format!("{}x{} to {}x{}", y.n_in(), x.n_in(), y.n_out(), x.n_out());
    let what = format!("resize{} {n} x {sizes} x {c}", T::SUFFIX);
    let forward = bound(&y.forward, &x.forward);
    assert_within(&format!("{what}, forward"), &got.0, &want, |_| forward);
    let backward = bound(&y.backward, &x.backward);
    assert_within(&format!("{what}, backward"), &got.1, &want_dx, |_| backward);
}

#[test]
fn kernels_match_the_reference() {
    let axis = |n_in, n_out, mode| Axis::new(n_in, n_out, mode, Step::Size).unwrap();
    for c in [1, 3, 40] {
        for (n, y, x) in [
            (1, axis(1, 1, Mode::Bilinear), axis(1, 3, Mode::Bilinear)),
            (2, axis(5, 20, Mode::Bilinear), axis(7, 14, Mode::Bilinear)),
            (2, axis(13, 4, Mode::Bilinear), axis(9, 9, Mode::Bilinear)),
            (1, axis(6, 11, Mode::Bicubic), axis(12, 5, Mode::BicubicAntialias)),
        ] {
            check::<f32>(n, c, &y, &x);
            check::<bf16>(n, c, &y, &x);
        }
    }
}
