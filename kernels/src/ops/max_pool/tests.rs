use super::{Forward, MaxPool};
use crate::call::{Call, Gpu, Host, Launch};
use crate::device::Device;

/// Maxima of a row of pixels and their positions: on the host in f64 and f32, and on a device.
fn pooled(s: &MaxPool, x: &[f32]) -> [(Vec<f64>, Vec<u8>); 3] {
    let n = s.lengths()[1];
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let (mut exact, mut at) = (vec![0.0; n], vec![9; n]);
    Forward::<Host, f64> { x: &wide, y: &mut exact, at: &mut at }.run(s).unwrap();
    let (mut fast, mut at_fast) = (vec![0.0; n], vec![9; n]);
    Forward::<Host, f32> { x, y: &mut fast, at: &mut at_fast }.run(s).unwrap();
    let device = Device::virtual_gpu();
    let there = device.upload("x", x).unwrap();
    let mut y = device.alloc::<f32>("y", n).unwrap();
    let mut at_there = device.alloc::<u8>("at", n).unwrap();
    let call = Forward::<Gpu, f32> { x: there.view(), y: y.view_mut(), at: at_there.view_mut() };
    call.launch(&device, s).unwrap();
    let widened = |y: Vec<f32>| y.into_iter().map(f64::from).collect();
    let y = device.download(y.view()).unwrap();
    let at_there = device.download(at_there.view()).unwrap();
    [(exact, at), (widened(fast), at_fast), (widened(y), at_there)]
}

#[test]
fn the_first_maximum_wins_and_a_nan_is_larger() {
    let s = MaxPool { b: 1, h: 3, w: 3, c: 1, k: 3, stride: 2, pad: 1 };
    let low = f32::NEG_INFINITY;
    // Windows of 2 x 2 pixels in the corners; positions count the padding.
    let x = [low, low, 1.0, low, low, 1.0, 2.0, f32::NAN, f32::NAN];
    for (y, at) in pooled(&s, &x) {
        assert_eq!(y[..2], [f64::NEG_INFINITY, 1.0]);
        assert!(y[2].is_nan() && y[3].is_nan());
        assert_eq!(at, [4, 4, 5, 4]);
    }
}

#[test]
fn windows_that_do_not_fit_are_named() {
    let s = MaxPool { b: 1, h: 2, w: 5, c: 1, k: 3, stride: 1, pad: 2 };
    let message = "max_pool: windows of 3 x 3 with stride 1 do not fit a 2 x 5 map padded by 2";
    assert_eq!(s.output().unwrap_err().to_string(), message);
}
