//! Launches of `class_loss.cu`.

use super::{Backward, ClassLoss, Forward};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("class_loss", include_str!("../../../ptx/class_loss.ptx"));

/// Warps per block.
const WARPS: usize = 8;

/// Mirrors `ClassLoss` in `class_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    k: u32,
    weight: f32,
    unused: u32,
}

impl ClassLoss {
    fn sizes(&self) -> Result<Sizes> {
        let (n, k) = (small(Self::NAME, "n", self.n)?, small(Self::NAME, "k", self.k)?);
        Ok(Sizes { n, k, weight: self.weight as f32, unused: 0 })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &ClassLoss, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let grid = Grid::line(1, 1, 32 * WARPS as u32);
        // SAFETY: the lengths were checked; targets beyond the classes are skipped.
        unsafe { device.launch(&PTX.kernel_of::<T>("class_loss_fwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &ClassLoss, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let grid = Grid::line(s.n, WARPS, 32 * WARPS as u32);
        // SAFETY: the lengths were checked; targets beyond the classes are skipped, warps beyond
        // row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("class_loss_bwd"), &grid, &args) }
    }
}
