use super::column_sums_gpu;
use crate::device::Device;

#[test]
fn rows_that_are_not_whole_are_refused() {
    let device = Device::virtual_gpu();
    let x = device.upload("x", &[0.0f32; 5]).unwrap();
    let mut out = device.zeros("out", 3).unwrap();
    let error = column_sums_gpu(&device, x.view(), 2, out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "column_sums: x has 5 elements, its sizes require 6");
}
