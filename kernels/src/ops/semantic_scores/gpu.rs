//! Launches of `semantic_scores.cu`.

use super::{Forward, SemanticScores};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module};
use crate::ops::resize::AxisGpu;

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

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &SemanticScores, device: &Device) -> Result<()> {
        let Forward { cls, masks, scores } = self;
        let (y, x) = (AxisGpu::new(device, &s.y)?, AxisGpu::new(device, &s.x)?);
        let (y, x, pixels) = (&y.forward, &x.forward, s.pixels());
        let size = |name, n| small(SemanticScores::NAME, name, n);
        size("pixels", pixels)?;
        let sizes = Sizes {
            q: size("q", s.q)?,
            k: size("k", s.k)?,
            h: size("h", y.n_in)?,
            w: size("w", x.n_in)?,
            ho: size("ho", y.n_out)?,
            wo: size("wo", x.n_out)?,
            taps_y: size("taps", y.width)?,
            taps_x: size("taps", x.width)?,
        };
        let columns = s.k.next_multiple_of(CLASSES);
        let mut prob = device.alloc::<f32>("semantic_scores.prob", s.q * columns)?;
        let args = Args::new(&sizes).read(cls).write(prob.view_mut());
        let kernel = PTX.kernel_of::<T>("semantic_prob");
        // SAFETY: the lengths were checked; warps beyond the last query do nothing.
        unsafe { device.launch(&kernel, &Grid::line(s.q, 8, 256), &args)? };
        let args = x.read(y.read(Args::new(&sizes))).read(prob.view()).read(masks).write(scores);
        let grid = Grid::new([pixels.div_ceil(256), s.k.div_ceil(CLASSES), 1], [256, 1, 1]);
        // SAFETY: the lengths were checked, the tables only have indices of rows and columns of the
        // masks; threads beyond the last pixel do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("semantic_scores"), &grid, &args) }
    }
}
