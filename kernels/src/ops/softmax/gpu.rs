//! Launches of `softmax.cu`.

use super::{Backward, Forward, Softmax};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("softmax", include_str!("../../../ptx/softmax.ptx"));

/// Warps per block, one per row.
const WARPS: usize = 8;

/// Mirrors `Softmax` in `softmax.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
}

impl Softmax {
    fn grid(&self) -> Grid {
        Grid::line(self.n, WARPS, 32 * WARPS as u32)
    }

    fn sizes(&self) -> Result<Sizes> {
        Ok(Sizes { n: small(Self::NAME, "n", self.n)?, c: small(Self::NAME, "c", self.c)? })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Softmax, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; warps beyond row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("softmax_fwd"), &s.grid(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Softmax, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; warps beyond row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("softmax_bwd"), &s.grid(), &args) }
    }
}
