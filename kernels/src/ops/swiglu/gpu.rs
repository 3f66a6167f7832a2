//! Launches of `swiglu.cu`.

use super::{Backward, Forward, Swiglu};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{small, tile2d};
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("swiglu", include_str!("../../../ptx/swiglu.ptx"));

/// Mirrors `Swiglu` in `swiglu.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    h: u32,
    rows: u32,
}

impl Swiglu {
    /// Grid of a kernel with one thread per vector of `y`, and its sizes.
    fn tiles(&self) -> Result<(Grid, Sizes)> {
        let (grid, rows) = tile2d(self.n, self.h);
        let size = |name, n| small(Self::NAME, name, n);
        let (n, h, rows) = (size("n", self.n)?, size("h", self.h)?, size("rows", rows)?);
        Ok((grid, Sizes { n, h, rows }))
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Swiglu, device: &Device) -> Result<()> {
        let (grid, sizes) = s.tiles()?;
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("swiglu_fwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Swiglu, device: &Device) -> Result<()> {
        let (grid, sizes) = s.tiles()?;
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("swiglu_bwd"), &grid, &args) }
    }
}
