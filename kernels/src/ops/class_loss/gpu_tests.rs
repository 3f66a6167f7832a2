use super::ClassLoss;
use crate::device::Device;

#[test]
fn no_rows_give_zero() {
    let device = Device::virtual_gpu();
    let s = ClassLoss { n: 0, k: 2, weight: 2.0 };
    let (x, targets) = (device.zeros::<f32>("x", 0).unwrap(), device.zeros("targets", 0).unwrap());
    let weights = device.upload("weights", &[1.0f32; 2]).unwrap();
    let (mut loss, mut scale) =
        (device.alloc("loss", 1).unwrap(), device.alloc("scale", 1).unwrap());
    let (l, c) = (loss.view_mut(), scale.view_mut());
    s.forward_gpu(&device, x.view(), targets.view(), weights.view(), l, c).unwrap();
    assert_eq!(device.download(loss.view()).unwrap(), [0.0]);
    let short = device.zeros("short", 1).unwrap();
    let (l, c) = (loss.view_mut(), scale.view_mut());
    let error = s.forward_gpu(&device, x.view(), short.view(), weights.view(), l, c);
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "class_loss: targets has 1 elements, its sizes require 0");
}
