use half::bf16;

use super::Linear;
use super::verify::KERNELS;
use crate::check::{noise, stored};
use crate::device::{Device, Epilogue, Float};

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

/// Counts products and launches of a forward pass and of the parameter gradients.
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
    // In f32 the only launch adds the gradient of the bias to its old value; in bf16 the bias is
    // rounded too.
    assert_eq!(counts::<f32>(&device), [(1, 0), (1, 1)]);
    assert_eq!(counts::<bf16>(&device), [(1, 1), (1, 1)]);
    let device = Device::virtual_without_epilogues();
    // The bias; two passes over dy.
    assert_eq!(counts::<f32>(&device), [(1, 1), (1, 2)]);
}

fn feed_forward<T: Float>(device: &Device, fused: bool) {
    let (n, m, k, out) = (7, 133, 5, 3);
    let up = |name, len, seed| device.upload(name, &stored::<T>(&noise(len, seed)).0).unwrap();
    let (x, w1, w2) = (up("x", n * k, 1), up("w1", m * k, 2), up("w2", out * m, 3));
    let (dy, bias) = (up("dy", n * out, 4), device.upload("b", &noise::<f32>(m, 5)).unwrap());
    let first = Linear { n, m, k };
    let second = Linear { n, m: out, k: m };
    let mut mask = device.alloc("mask", Epilogue::mask_len(n, m)).unwrap();
    let (mut h, mut plain) = (device.alloc("h", n * m).unwrap(), device.alloc("h", n * m).unwrap());
    let (x, w1, b) = (x.view(), w1.view(), bias.view());
    let bits = mask.view_mut();
    let written = first.forward_relu_mask_gpu(device, x, w1, b, bits, h.view_mut());
    assert_eq!(written.unwrap(), fused);
    first.forward_relu_gpu(device, x, w1, b, plain.view_mut()).unwrap();
    let h: Vec<T> = device.download(h.view()).unwrap();
    assert_eq!(h, device.download(plain.view()).unwrap());
    let mut dh_buffer = device.alloc::<T>("dh", n * m).unwrap();
    let (w2, dy) = (w2.view(), dy.view());
    if !fused {
        let done = second.dx_before_relu_gpu(device, w2, dy, mask.view(), dh_buffer.view_mut());
        assert!(!done.unwrap());
        return;
    }
    assert!(second.dx_before_relu_gpu(device, w2, dy, mask.view(), dh_buffer.view_mut()).unwrap());
    let mut all = device.alloc::<T>("all", n * m).unwrap();
    second.backward_gpu(device, None, w2, dy, Some(all.view_mut()), None, None).unwrap();
    let (dh, all) =
        (device.download(dh_buffer.view()).unwrap(), device.download(all.view()).unwrap());
    let zero = T::of(0.0);
    for i in 0..n * m {
        assert_eq!(dh[i], if h[i].f32() > 0.0 { all[i] } else { zero }, "element {i}");
    }
    assert!(h.contains(&zero) && h.iter().any(|h| h.f32() > 0.0));
    let short = mask.view().slice(1..mask.len());
    let error = second.dx_before_relu_gpu(device, w2, dy, short, dh_buffer.view_mut());
    let want = "matmul: mask of the epilogue has 223 elements, its sizes require 224";
    assert_eq!(error.unwrap_err().to_string(), want);
}

#[test]
fn a_mask_of_bits_serves_the_backward_pass_of_the_relu() {
    let device = Device::virtual_gpu();
    feed_forward::<f32>(&device, true);
    feed_forward::<bf16>(&device, true);
    feed_forward::<bf16>(&Device::virtual_without_epilogues(), false);
}

#[test]
fn a_device_without_epilogues_gives_the_same_within_bounds() {
    for outcome in KERNELS.run(&Device::virtual_without_epilogues()) {
        assert_eq!(outcome.failure, None, "{}", outcome.what);
    }
}
