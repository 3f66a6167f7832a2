use super::UncertainPoints;
use crate::device::Device;

#[test]
fn too_many_points_are_refused() {
    let device = Device::virtual_gpu();
    let b = device.zeros::<f32>("b", 2).unwrap();
    let mut out = device.alloc("out", 4).unwrap();
    let s = UncertainPoints { r: 1, n_over: 1, keep: 2, n_rand: 0 };
    let (one, two) = (b.view().slice(0..1), b.view());
    let error = s.select_gpu(&device, one, two, two.slice(0..0), out.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "uncertain_points: 2 of 1 points cannot be kept");
}
