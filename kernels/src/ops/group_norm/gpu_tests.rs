use super::{GroupNorm, StatsGpu};
use crate::check::noise;
use crate::device::Device;

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = GroupNorm { b: 1, hw: 2, c: 4, groups: 2, eps: 1e-5 };
    let x = device.upload("x", &noise::<f32>(8, 1)).unwrap();
    let w = device.upload("weight", &noise::<f32>(4, 2)).unwrap();
    let stats = device.upload("stats", &[0.5f32, 0.5]).unwrap();
    let stats = StatsGpu { mean: stats.view(), rstd: stats.view() };
    let mut dw = device.zeros("dweight", 4).unwrap();
    let before = device.counters().launches;
    let run = |dw| s.backward_gpu(&device, x.view(), w.view(), stats, x.view(), None, dw, None);
    run(None).unwrap();
    assert_eq!(device.counters().launches, before);
    run(Some(dw.view_mut())).unwrap();
    assert_eq!(device.counters().launches, before + 3);
}
