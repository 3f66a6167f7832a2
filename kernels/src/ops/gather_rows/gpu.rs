//! Launches of `gather_rows.cu`.

use super::{Backward, Forward, GatherRows};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("gather_rows", include_str!("../../../ptx/gather_rows.ptx"));

/// Threads per block.
const THREADS: usize = 256;

/// Mirrors `GatherRows` in `gather_rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    r: u32,
    c: u32,
}

impl GatherRows {
    fn grid(&self, rows: usize) -> Grid {
        Grid::new([rows, self.c.div_ceil(THREADS), 1], [THREADS as u32, 1, 1])
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        Ok(Sizes { n: size("n", self.n)?, r: size("r", self.r)?, c: size("c", self.c)? })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &GatherRows, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; an index that is not a row is not read.
        unsafe { device.launch(&PTX.kernel_of::<T>("gather_rows_fwd"), &s.grid(s.r), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &GatherRows, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; block i writes row i of dx.
        unsafe { device.launch(&PTX.kernel_of::<T>("gather_rows_bwd"), &s.grid(s.n), &args) }
    }
}
