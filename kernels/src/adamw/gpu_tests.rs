use super::{AdamW, MultiAdamW, Tensor};
use crate::device::{Buffer, Device};

#[test]
fn bad_arguments_are_named() {
    let device = Device::virtual_gpu();
    let mut b: Vec<Buffer<f32>> = (0..4).map(|i| device.zeros("b", 2 + i / 3).unwrap()).collect();
    let [p, m, v, g] = &mut b[..] else { panic!("four buffers") };
    let mut update = |t, group, long: bool| {
        let (p, m, v) = (p.view_mut(), m.view_mut(), v.view_mut());
        let g = if long { g.view() } else { g.view().slice(0..2) };
        let mut tensors = [Tensor { p, m, v, g, copy: None, group }];
        MultiAdamW::default().update(&device, t, &[AdamW::default()], &mut tensors)
    };
    let error = update(0, 0, false).unwrap_err();
    assert_eq!(error.to_string(), "adamw: updates are counted from 1, not from 0");
    let error = update(1, 1, false).unwrap_err();
    assert_eq!(error.to_string(), "adamw: group 1 of 1; they are counted from 0");
    let error = update(1, 0, true).unwrap_err();
    assert_eq!(error.to_string(), "adamw: g has 3 elements, its sizes ask for 2");
}
