use half::bf16;

use super::Linear;
use super::proof::KERNELS;
use crate::device::{Device, Float};

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

/// Products and launches of a forward pass and of the parameters' gradients.
fn counts<T: Float>(device: &Device) -> [(u64, u64); 2] {
    let s = Linear { n: 3, m: 4, k: 2 };
    let (x, weight) = (device.zeros::<T>("x", 6).unwrap(), device.zeros::<T>("w", 8).unwrap());
    let mut y = device.zeros::<T>("y", 12).unwrap();
    let mut parameters = [8, 4].map(|n| device.zeros::<f32>("parameter", n).unwrap());
    let counted = |work: &mut dyn FnMut()| {
        let before = device.counters();
        work();
        let after = device.counters();
        (after.products - before.products, after.launches - before.launches)
    };
    let [dw, db] = &mut parameters;
    let forward = counted(&mut || {
        let bias = Some(db.view());
        s.forward_gpu(device, x.view(), weight.view(), bias, y.view_mut()).unwrap();
    });
    let backward = counted(&mut || {
        let (dw, db) = (Some(dw.view_mut()), Some(db.view_mut()));
        s.backward_gpu(device, Some(x.view()), weight.view(), y.view(), None, dw, db).unwrap();
    });
    [forward, backward]
}

#[test]
fn what_the_product_takes_along_is_not_launched() {
    let device = Device::virtual_gpu();
    // In f32 nothing but the sum of the bias's gradient with what was there; in bf16 the bias is
    // rounded.
    assert_eq!(counts::<f32>(&device), [(1, 0), (1, 1)]);
    assert_eq!(counts::<bf16>(&device), [(1, 1), (1, 1)]);
    let device = Device::virtual_without_epilogues();
    // The bias; two passes over dy.
    assert_eq!(counts::<f32>(&device), [(1, 1), (1, 2)]);
}

#[test]
fn a_device_without_epilogues_gives_the_same_within_bounds() {
    for outcome in KERNELS.run(&Device::virtual_without_epilogues()) {
        assert_eq!(outcome.failure, None, "{}", outcome.what);
    }
}
