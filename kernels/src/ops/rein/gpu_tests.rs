use super::{GradientsGpu, Rein, WeightsGpu};
use crate::check::noise;
use crate::device::Device;

#[test]
fn the_gradient_of_the_features_alone_is_one_kernel() {
    let device = Device::virtual_gpu();
    let s = Rein { b: 1, skip: 1, n: 3, c: 64, m: 2, softmax: true };
    let x = device.upload("x", &noise::<f32>(64 * 64, 1)).unwrap();
    let part = |rows: usize| x.view().slice(0..rows * 64);
    let (tokens, values, bias) = (part(2), part(1), part(1));
    let w = WeightsGpu { tokens, values, weight: x.view(), bias, scale: bias.slice(0..1) };
    let (mut out, mut lse) = (device.alloc("out", 256).unwrap(), device.alloc("lse", 3).unwrap());
    s.forward_gpu(&device, part(4), w, out.view_mut(), lse.view_mut()).unwrap();
    let launches = device.counters().launches;
    let mut df = device.alloc("df", 256).unwrap();
    let only = GradientsGpu { df: Some(df.view_mut()), ..GradientsGpu::default() };
    s.backward_gpu(&device, part(4), w, lse.view(), out.view(), only).unwrap();
    assert_eq!(device.counters().launches, launches + 1);
}

#[test]
fn sizes_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = Rein { b: 1, skip: 0, n: 1, c: 48, m: 1, softmax: true };
    let x = device.zeros::<f32>("x", 48 * 48).unwrap();
    let f = x.view().slice(0..48);
    let one = x.view().slice(0..1);
    let values = x.view().slice(0..0);
    let w = WeightsGpu { tokens: f, values, weight: x.view(), bias: f, scale: one };
    let (mut out, mut lse) = (device.alloc("out", 48).unwrap(), device.alloc("lse", 1).unwrap());
    let error = s.forward_gpu(&device, f, w, out.view_mut(), lse.view_mut()).unwrap_err();
    let want = "rein: 1 tokens of 48 channels; the GPU kernel takes 1 to 208 of a multiple of 64";
    assert_eq!(error.to_string(), want);
}

#[test]
fn sizes_and_places_that_kernels_cannot_take_are_named() {
    let device = Device::virtual_gpu();
    let x = device.zeros::<f32>("x", 64 * 64 + 4).unwrap();
    let part = |from: usize, rows: usize| x.view().slice(from..from + rows * 64);
    let w = WeightsGpu {
        tokens: part(0, 1),
        values: part(0, 0),
        weight: part(0, 64),
        bias: part(0, 1),
        scale: x.view().slice(0..1),
    };
    let (mut out, mut lse) = (device.alloc("out", 64).unwrap(), device.alloc("lse", 1).unwrap());
    let s = Rein { b: 1, skip: 0, n: 1, c: 64, m: 1, softmax: true };
    let error = s.forward_gpu(&device, part(1, 1), w, out.view_mut(), lse.view_mut()).unwrap_err();
    let want = "rein: f does not begin at a multiple of 16 bytes; copy it";
    assert_eq!(error.to_string(), want);
    // No image, so that no memory is needed.
    let s = Rein { b: 0, skip: 1 << 31, ..s };
    let (out, lse) = (out.view_mut().slice(0..0), lse.view_mut().slice(0..0));
    let error = s.forward_gpu(&device, part(0, 0), w, out, lse).unwrap_err();
    let want =
        "rein: the number of rows of an image is 2147483649; a GPU kernel takes up to 2147483647";
    assert_eq!(error.to_string(), want);
}
