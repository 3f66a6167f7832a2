use super::{Transpose, reference};
use crate::check::noise;
use crate::device::Device;

#[test]
fn fast_form_equals_the_reference_and_its_inverse_undoes_it() {
    for (b, n, m) in [(1, 1, 1), (2, 3, 5), (1, 70, 33), (3, 32, 64), (2, 1, 40)] {
        let s = Transpose { b, n, m };
        let x = noise::<f32>(b * n * m, 1);
        let (mut y, mut want) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        s.forward(&x, &mut y).unwrap();
        reference::forward(&s, &x, &mut want);
        assert_eq!(y, want, "{s:?}");
        let mut back = vec![f32::NAN; x.len()];
        s.inverse().forward(&y, &mut back).unwrap();
        assert_eq!(back, x, "{s:?}");
    }
}

#[test]
fn lengths_are_checked_and_nothing_is_fine() {
    let s = Transpose { b: 1, n: 2, m: 3 };
    let error = s.forward(&[0.0f32; 5], &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "transpose: x has 5 elements, its sizes require 6");
    for (b, n, m) in [(0, 2, 3), (1, 0, 3), (1, 2, 0)] {
        let s = Transpose { b, n, m };
        s.forward::<f32>(&[], &mut []).unwrap();
        let device = Device::virtual_gpu();
        let (x, mut y) = (device.zeros::<f32>("x", 0).unwrap(), device.zeros("y", 0).unwrap());
        s.forward_gpu(&device, x.view(), y.view_mut()).unwrap();
    }
}
