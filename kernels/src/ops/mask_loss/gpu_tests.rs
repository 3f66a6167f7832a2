use super::{MaskLoss, Pairs};
use crate::device::Device;

#[test]
fn no_pairs_give_zero_losses() {
    let device = Device::virtual_gpu();
    let s = MaskLoss::new(0, 100);
    let none = device.zeros::<f32>("none", 0).unwrap();
    let num = device.upload("num", &[1.0f32]).unwrap();
    let pairs = Pairs { x: none.view(), t: none.view(), weights: None, num: num.view() };
    let mut sums = device.alloc("sums", 0).unwrap();
    let mut losses = device.alloc("losses", 2).unwrap();
    s.forward_gpu(&device, pairs, sums.view_mut(), losses.view_mut()).unwrap();
    assert_eq!(device.download(losses.view()).unwrap(), [0.0, 0.0]);
}
