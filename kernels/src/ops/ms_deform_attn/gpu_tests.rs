use super::{Backward, Forward, MsDeformAttn};
use crate::call::{Gpu, Launch};
use crate::check::noise;
use crate::device::Device;

#[test]
fn integers_are_summed_only_for_dvalue() {
    let device = Device::virtual_gpu();
    let s = MsDeformAttn { b: 1, levels: vec![(2, 2)], heads: 1, d: 4, points: 2 };
    let x = device.upload("x", &noise::<f32>(16, 1)).unwrap();
    let (mut dv, mut doff) = (device.alloc("dv", 16).unwrap(), device.alloc("doff", 16).unwrap());
    let (value, offsets, attn) = (x.view(), x.view(), x.view().slice(0..8));
    let mut launches = |wants_dvalue: bool| {
        let c = Backward::<Gpu, f32> {
            value,
            offsets,
            attn,
            dout: value,
            dvalue: wants_dvalue.then(|| dv.view_mut()),
            doffsets: Some(doff.view_mut()),
            dlogits: None,
        };
        let before = device.counters().launches;
        c.launch(&device, &s).unwrap();
        device.counters().launches - before
    };
    assert_eq!(launches(true), 3, "peak, backward, settle");
    assert_eq!(launches(false), 1);
}

#[test]
fn sizes_and_places_that_kernels_cannot_take_are_named() {
    let device = Device::virtual_gpu();
    let x = device.zeros::<f32>("x", 8).unwrap();
    // The message for features that begin `from` elements into a buffer.
    let message = |s: &MsDeformAttn, from: usize| {
        let (n, p) = (s.features(), s.all_points());
        let (mut out, mut attn) = (device.alloc("y", n).unwrap(), device.alloc("z", p).unwrap());
        let c = Forward::<Gpu, f32> {
            value: x.view().slice(from..from + n),
            offsets: x.view().slice(0..2 * p),
            logits: x.view().slice(0..p),
            out: out.view_mut(),
            attn: attn.view_mut(),
        };
        c.launch(&device, s).unwrap_err().to_string()
    };
    let s = MsDeformAttn { b: 1, levels: vec![(1, 1)], heads: 1, d: 4, points: 1 };
    let want = "ms_deform_attn: heads of 6 channels; the GPU kernel takes 4, 8, .. 32";
    assert_eq!(message(&MsDeformAttn { d: 6, ..s.clone() }, 0), want);
    let want = "ms_deform_attn: value does not begin at a multiple of 16 bytes; copy it";
    assert_eq!(message(&s, 2), want);
    // No image, so that no memory is needed.
    let want =
        "ms_deform_attn: the number of tokens is 2147483648; a GPU kernel takes up to 2147483647";
    assert_eq!(message(&MsDeformAttn { b: 0, levels: vec![(1 << 16, 1 << 15)], ..s }, 0), want);
}
