use super::{LayerNorm, StatsGpu};
use crate::device::Device;

#[test]
fn wrong_lengths_are_named_and_nothing_is_launched_for_nothing() {
    let device = Device::virtual_gpu();
    let s = LayerNorm { n: 2, c: 3, eps: 1e-6 };
    let five = device.upload("x", &[0.0f32; 5]).unwrap();
    let three = device.upload("weight", &[0.0f32; 3]).unwrap();
    let (mut y, mut mean) =
        (device.zeros::<f32>("y", 6).unwrap(), device.zeros("mean", 2).unwrap());
    let mut rstd = device.zeros("rstd", 2).unwrap();
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    let (x, w) = (five.view(), three.view());
    let error = s.forward_gpu(&device, x, w, w, y.view_mut(), m, r).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: x has 5 elements, its sizes require 6");
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    s.backward_gpu(&device, y.view(), w, stats, y.view(), None, None, None).unwrap();
    assert_eq!(device.counters().launches, 0);
}
