use super::Linear;
use crate::device::Device;

#[test]
fn a_gradient_of_the_weight_needs_x() {
    let device = Device::virtual_gpu();
    let x = device.zeros::<f32>("x", 6).unwrap();
    let s = Linear { n: 2, m: 3, k: 2 };
    let mut dweight = device.zeros("dweight", 6).unwrap();
    let dw = Some(dweight.view_mut());
    let error = s.backward_gpu(&device, None, x.view(), x.view(), None, dw, None).unwrap_err();
    assert_eq!(error.to_string(), "linear: the gradient of the weight needs x");
}
