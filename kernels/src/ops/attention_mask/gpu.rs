//! Launch of `attention_mask.cu`.

use super::THRESHOLD;
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::resize::AxisGpu;
use crate::{Result, check_count};

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

/// [`super::AttentionMask`] on a device.
#[derive(Debug, Clone, Copy)]
pub struct AttentionMaskGpu<'a> {
    /// Rows of keys: one per query of each image.
    pub n: usize,
    /// Bilinear taps from rows of the mask to rows of the level.
    pub y: &'a AxisGpu,
    /// Bilinear taps from columns of the mask to columns of the level.
    pub x: &'a AxisGpu,
}

impl AttentionMaskGpu<'_> {
    /// [`super::AttentionMask::compute`] on a device: writes `used` `[n, ho, wo]` and, if
    /// requested, `raw`. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn compute<T: Float>(
        &self,
        device: &Device,
        logits: View<'_, T>,
        used: ViewMut<'_, u8>,
        raw: Option<ViewMut<'_, u8>>,
    ) -> Result<()> {
        let (y, x) = (&self.y.forward, &self.x.forward);
        let keys = self.n * y.n_out * x.n_out;
        check_count("attention_mask", "logits", logits.len(), self.n * y.n_in * x.n_in)?;
        check_count("attention_mask", "used", used.len(), keys)?;
        check_count("attention_mask", "raw", raw.as_ref().map_or(keys, ViewMut::len), keys)?;
        let size = |name, n| small("attention_mask", name, n);
        size("keys of a row", y.n_out * x.n_out)?;
        let sizes = Sizes {
            n: size("n", self.n)?,
            h: size("h", y.n_in)?,
            w: size("w", x.n_in)?,
            ho: size("ho", y.n_out)?,
            wo: size("wo", x.n_out)?,
            taps_y: size("taps", y.width)?,
            taps_x: size("taps", x.width)?,
            threshold: THRESHOLD as f32,
        };
        let args = x.read(y.read(Args::new(&sizes))).read(logits).write(used).write_if(raw);
        let kernel = PTX.kernel_of::<T>("attention_mask");
        // SAFETY: the lengths were checked, the tables only have indices of rows and columns of the
        // mask; block i writes row i.
        unsafe { device.launch(&kernel, &Grid::line(self.n, 1, 256), &args) }
    }
}
