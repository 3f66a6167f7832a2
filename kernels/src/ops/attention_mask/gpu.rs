//! Launch of `attention_mask.cu`.

use super::{AttentionMask, Forward, THRESHOLD};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module};
use crate::ops::resize::AxisGpu;

static PTX: Module = Module::new("attention_mask", include_str!("../../../ptx/attention_mask.ptx"));

/// Mirrors `AttentionMask` in `attention_mask.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    h: u32,
    w: u32,
    ho: u32,
    wo: u32,
    taps_y: u32,
    taps_x: u32,
    threshold: f32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &AttentionMask, device: &Device) -> Result<()> {
        let (y, x) = (AxisGpu::new(device, &s.y)?.forward, AxisGpu::new(device, &s.x)?.forward);
        let size = |name, n| small(AttentionMask::NAME, name, n);
        size("keys of a row", y.n_out * x.n_out)?;
        let sizes = Sizes {
            n: size("n", s.n)?,
            h: size("h", y.n_in)?,
            w: size("w", x.n_in)?,
            ho: size("ho", y.n_out)?,
            wo: size("wo", x.n_out)?,
            taps_y: size("taps", y.width)?,
            taps_x: size("taps", x.width)?,
            threshold: THRESHOLD as f32,
        };
        let args = x.read(y.read(Args::new(&sizes))).read(self.logits);
        let args = args.write(self.used).write_if(self.raw);
        let kernel = PTX.kernel_of::<T>(AttentionMask::NAME);
        // SAFETY: the lengths were checked, the tables only have indices of rows and columns of the
        // mask; block i writes row i.
        unsafe { device.launch(&kernel, &Grid::line(s.n, 1, 256), &args) }
    }
}
