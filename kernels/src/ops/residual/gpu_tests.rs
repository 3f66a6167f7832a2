use super::Residual;
use crate::device::Device;

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = Residual { n: 2, c: 3 };
    let dy = device.upload("dy", &[1.0f32; 6]).unwrap();
    s.backward_gpu(&device, None, None, None, dy.view(), None, None).unwrap();
    assert_eq!(device.counters().launches, 0);
    let mut dr = device.alloc("dr", 6).unwrap();
    s.backward_gpu(&device, None, None, None, dy.view(), Some(dr.view_mut()), None).unwrap();
    assert_eq!(device.counters().launches, 1);
    let mut dgamma = device.zeros("dgamma", 3).unwrap();
    let error = s
        .backward_gpu(&device, None, None, None, dy.view(), None, Some(dgamma.view_mut()))
        .unwrap_err();
    assert_eq!(error.to_string(), "residual: the gradient of gamma needs r");
}
