use super::{Backward, GroupNorm};
use crate::call::{Gpu, Launch};
use crate::check::noise;
use crate::device::Device;

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = GroupNorm { b: 1, hw: 2, c: 4, groups: 2, eps: 1e-5 };
    let x = device.upload("x", &noise::<f32>(8, 1)).unwrap();
    let weight = device.upload("weight", &noise::<f32>(4, 2)).unwrap();
    let stats = device.upload("stats", &[0.5f32, 0.5]).unwrap();
    let mut dweight = device.zeros("dweight", 4).unwrap();
    let before = device.counters().launches;
    let call = Backward::<Gpu, _> {
        x: x.view(),
        weight: weight.view(),
        mean: stats.view(),
        rstd: stats.view(),
        dy: x.view(),
        dweight: Some(dweight.view_mut()),
        ..Backward::default()
    };
    call.launch(&device, &s).unwrap();
    assert_eq!(device.counters().launches, before + 3);
}
