use super::MsDeformAttn;
use crate::check::noise;
use crate::device::Device;

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = MsDeformAttn { b: 1, levels: &[(2, 2)], heads: 1, d: 4, points: 2 };
    let value = device.upload("value", &noise::<f32>(16, 1)).unwrap();
    let offsets = device.upload("offsets", &noise::<f32>(16, 2)).unwrap();
    let logits = device.upload("logits", &noise::<f32>(8, 3)).unwrap();
    let (mut out, mut attn) = (device.alloc("out", 16).unwrap(), device.alloc("attn", 8).unwrap());
    let (v, o) = (value.view(), offsets.view());
    s.forward_gpu(&device, v, o, logits.view(), out.view_mut(), attn.view_mut()).unwrap();
    assert_eq!(device.counters().launches, 1);
    let (mut dv, mut doff) = (device.alloc("dv", 16).unwrap(), device.alloc("doff", 16).unwrap());
    let (a, g) = (attn.view(), out.view());
    let (all, only) = (Some(dv.view_mut()), Some(doff.view_mut()));
    s.backward_gpu(&device, v, o, a, g, all, only, None).unwrap();
    assert_eq!(device.counters().launches, 4, "peak, backward, settle");
    s.backward_gpu(&device, v, o, a, g, None, Some(doff.view_mut()), None).unwrap();
    assert_eq!(device.counters().launches, 5, "no integers where dvalue is not wanted");
    s.backward_gpu(&device, v, o, a, g, None, None, None).unwrap();
    assert_eq!(device.counters().launches, 5);
}

#[test]
fn sizes_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = MsDeformAttn { b: 1, levels: &[(1, 1)], heads: 1, d: 6, points: 1 };
    let x = device.zeros::<f32>("x", 6).unwrap();
    let mut y = device.alloc::<f32>("y", 6).unwrap();
    let mut z = device.alloc::<f32>("z", 1).unwrap();
    let (x, y, z) = (x.view(), y.view_mut(), z.view_mut());
    let error = s.forward_gpu(&device, x, x, x, y, z).unwrap_err();
    let want = "ms_deform_attn: heads of 6 channels; the GPU kernel takes 4, 8, .. 32";
    assert_eq!(error.to_string(), want);
}

#[test]
fn sizes_and_places_that_kernels_cannot_take_are_named() {
    let device = Device::virtual_gpu();
    let s = MsDeformAttn { b: 1, levels: &[(1, 1)], heads: 1, d: 4, points: 1 };
    let x = device.zeros::<f32>("x", 8).unwrap();
    let (mut y, mut z) = (device.alloc("y", 4).unwrap(), device.alloc("z", 1).unwrap());
    let (x, y, z) = (x.view(), y.view_mut(), z.view_mut());
    let (value, offsets, logit) = (x.slice(2..6), x.slice(0..2), x.slice(0..1));
    let error = s.forward_gpu(&device, value, offsets, logit, y, z).unwrap_err();
    let want = "ms_deform_attn: value does not begin at a multiple of 16 bytes; copy it";
    assert_eq!(error.to_string(), want);
    // No image, so that no memory is needed.
    let s = MsDeformAttn { b: 0, levels: &[(1 << 16, 1 << 15)], ..s };
    let none = x.slice(0..0);
    let (mut y, mut z) = (device.alloc("y", 0).unwrap(), device.alloc("z", 0).unwrap());
    let error = s.forward_gpu(&device, none, none, none, y.view_mut(), z.view_mut()).unwrap_err();
    let want =
        "ms_deform_attn: the number of tokens is 2147483648; a GPU kernel takes up to 2147483647";
    assert_eq!(error.to_string(), want);
}
