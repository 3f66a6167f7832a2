use half::bf16;

use super::{Backward, Forward, ForwardRelu, Linear, ParameterGradients};
use crate::call::{Gpu, Launch};
use crate::check::checks::Checked;
use crate::check::verify::Verification;
use crate::check::{noise, stored};
use crate::device::{Device, Epilogue, Float};

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
        let (weight, bias) = (weight.view(), Some(db.view()));
        let call = Forward::<Gpu, T> { x: x.view(), weight, bias, y: y.view_mut() };
        call.launch(device, &s).unwrap();
    });
    let backward = counted(&mut || {
        let (dweight, dbias) = (Some(dw.view_mut()), Some(db.view_mut()));
        let call = ParameterGradients::<Gpu, T> { x: Some(x.view()), dy: y.view(), dweight, dbias };
        call.launch(device, &s).unwrap();
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
    let call = ForwardRelu::<Gpu, _> { x, weight: w1, bias: b, y: plain.view_mut() };
    call.launch(device, &first).unwrap();
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
    let call = Backward::<Gpu, _> { weight: w2, dy, dx: all.view_mut() };
    call.launch(device, &second).unwrap();
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
    let device = Device::virtual_without_epilogues();
    let mut verification = Verification::new(&device);
    Linear::checks().on_device(&mut verification).unwrap();
    for outcome in verification.into_outcomes() {
        assert_eq!(outcome.failure, None, "{}", outcome.what);
    }
}
