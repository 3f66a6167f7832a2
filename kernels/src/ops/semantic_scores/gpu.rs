//! Launches of `semantic_scores.cu`.

use super::SemanticScores;
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::resize::AxisGpu;
use crate::{Result, check_count};

static PTX: Module =
    Module::new("semantic_scores", include_str!("../../../ptx/semantic_scores.ptx"));

/// Classes per block; equals `CLASSES` in `semantic_scores.cu`.
const CLASSES: usize = 20;

/// Mirrors `SemanticScores` in `semantic_scores.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    q: u32,
    k: u32,
    h: u32,
    w: u32,
    ho: u32,
    wo: u32,
    taps_y: u32,
    taps_x: u32,
}

impl SemanticScores {
    /// [`SemanticScores::upsampled`] on a device: writes `scores` `[k, ho, wo]` in f32. Two
    /// launches.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn upsampled_gpu<T: Float>(
        &self,
        device: &Device,
        y: &AxisGpu,
        x: &AxisGpu,
        cls: View<'_, T>,
        masks: View<'_, T>,
        scores: ViewMut<'_, f32>,
    ) -> Result<()> {
        let (y, x) = (&y.forward, &x.forward);
        let pixels = y.n_out * x.n_out;
        check_count("semantic_scores", "cls", cls.len(), self.q * (self.k + 1))?;
        check_count("semantic_scores", "masks", masks.len(), self.q * y.n_in * x.n_in)?;
        check_count("semantic_scores", "scores", scores.len(), self.k * pixels)?;
        let size = |name, n| small("semantic_scores", name, n);
        size("pixels", pixels)?;
        let sizes = Sizes {
            q: size("q", self.q)?,
            k: size("k", self.k)?,
            h: size("h", y.n_in)?,
            w: size("w", x.n_in)?,
            ho: size("ho", y.n_out)?,
            wo: size("wo", x.n_out)?,
            taps_y: size("taps", y.width)?,
            taps_x: size("taps", x.width)?,
        };
        let columns = self.k.next_multiple_of(CLASSES);
        let mut prob = device.alloc::<f32>("semantic_scores.prob", self.q * columns)?;
        let args = Args::new(&sizes).read(cls).write(prob.view_mut());
        let kernel = PTX.kernel_of::<T>("semantic_prob");
        // SAFETY: the lengths were checked; warps beyond the last query do nothing.
        unsafe { device.launch(&kernel, &Grid::line(self.q, 8, 256), &args)? };
        let args = x.read(y.read(Args::new(&sizes))).read(prob.view()).read(masks).write(scores);
        let grid = Grid::new([pixels.div_ceil(256), self.k.div_ceil(CLASSES), 1], [256, 1, 1]);
        // SAFETY: the lengths were checked, the tables only have indices of rows and columns of the
        // masks; threads beyond the last pixel do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("semantic_scores"), &grid, &args) }
    }
}
