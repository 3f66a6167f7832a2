use super::{Backward, Forward, Rein};
use crate::call::{Gpu, Launch};
use crate::check::noise;
use crate::device::{Buffer, Device};

/// A forward pass whose operands begin at multiples of `c` in one buffer, its features at element
/// `from`.
fn forward(device: &Device, s: &Rein, x: &Buffer<f32>, from: usize) -> Result<(), String> {
    let part = |rows: usize| x.view().slice(0..rows * s.c);
    let [features, values] = s.lengths();
    let mut out = device.alloc("out", features).unwrap();
    let mut lse = device.alloc("lse", s.b * s.n).unwrap();
    let call = Forward::<Gpu, f32> {
        f: x.view().slice(from..from + features),
        tokens: part(s.m),
        values: x.view().slice(0..values),
        weight: part(s.c),
        bias: part(1),
        scale: x.view().slice(0..1),
        out: out.view_mut(),
        lse: lse.view_mut(),
    };
    call.launch(device, s).map_err(|error| error.to_string())
}

#[test]
fn the_gradient_of_the_features_alone_is_one_kernel() {
    let device = Device::virtual_gpu();
    let s = Rein { b: 1, skip: 1, n: 3, c: 64, m: 2, softmax: true };
    let x = device.upload("x", &noise::<f32>(64 * 64, 1)).unwrap();
    let part = |rows: usize| x.view().slice(0..rows * 64);
    let launches = device.counters().launches;
    let mut df = device.alloc("df", 256).unwrap();
    let call = Backward::<Gpu, f32> {
        f: part(4),
        tokens: part(2),
        values: part(1),
        weight: x.view(),
        bias: part(1),
        scale: x.view().slice(0..1),
        lse: x.view().slice(0..3),
        dout: part(4),
        df: Some(df.view_mut()),
        ..Backward::default()
    };
    call.launch(&device, &s).unwrap();
    assert_eq!(device.counters().launches, launches + 1);
}

#[test]
fn sizes_and_places_that_kernels_cannot_take_are_named() {
    let device = Device::virtual_gpu();
    let x = device.zeros::<f32>("x", 64 * 64 + 4).unwrap();
    let s = Rein { b: 1, skip: 0, n: 1, c: 64, m: 1, softmax: true };
    let want = "rein: 1 tokens of 48 channels; the GPU kernel takes 1 to 208 of a multiple of 64";
    assert_eq!(forward(&device, &Rein { c: 48, ..s }, &x, 0), Err(want.into()));
    let want = "rein: f does not begin at a multiple of 16 bytes; copy it";
    assert_eq!(forward(&device, &s, &x, 1), Err(want.into()));
    // No image, so that no memory is needed.
    let want =
        "rein: the number of rows of an image is 2147483649; a GPU kernel takes up to 2147483647";
    assert_eq!(forward(&device, &Rein { b: 0, skip: 1 << 31, ..s }, &x, 0), Err(want.into()));
}
