use super::Uniform;
use crate::device::Device;

#[test]
fn nothing_to_draw_is_no_launch() {
    let device = Device::virtual_gpu();
    let s = Uniform { seed: 1, purpose: 2, first: 3, streams: 2, rows: 0, draws: 4 };
    let step = device.upload("step", &[0]).unwrap();
    let mut out = device.alloc("out", 0).unwrap();
    s.fill_gpu(&device, step.view(), None, out.view_mut()).unwrap();
    assert_eq!(device.counters().launches, 0);
    let s = Uniform { rows: 1, ..s };
    let error = s.fill_gpu(&device, step.view(), None, out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "uniform: out has 0 elements, its sizes require 8");
}
