//! Launches of `residual.cu`.

use super::{Backward, Forward, GammaGradient, Residual};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{RowSplit, small, tile2d};
use crate::device::{Args, Device, Float, Module};
use crate::ops::reduce::column_finish;

static PTX: Module = Module::new("residual", include_str!("../../../ptx/residual.ptx"));

/// Mirrors `Residual` in `residual.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
    rows: u32,
}

impl Residual {
    fn sizes(&self, rows: usize) -> Result<Sizes> {
        Ok(Sizes {
            n: small(Self::NAME, "n", self.n)?,
            c: small(Self::NAME, "c", self.c)?,
            rows: small(Self::NAME, "rows", rows)?,
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Residual, device: &Device) -> Result<()> {
        let (grid, rows) = tile2d(s.n, s.c);
        let args = arguments(&s.sizes(rows)?, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("residual_fwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Residual, device: &Device) -> Result<()> {
        let (grid, rows) = tile2d(s.n, s.c);
        let args = arguments(&s.sizes(rows)?, s, self);
        // SAFETY: the lengths were checked; threads beyond the rows do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("residual_bwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for GammaGradient<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Residual, device: &Device) -> Result<()> {
        let GammaGradient { r, bias, dy, dgamma } = self;
        let splits = RowSplit::of(s.n);
        let mut partial = device.alloc("residual.partial", splits.count * s.c)?;
        let args = Args::new(&s.sizes(splits.rows)?).read(r).read_if(bias).read(dy);
        let args = args.write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("residual_columns");
        // SAFETY: the lengths were checked; partial holds one sum per split and column.
        unsafe { device.launch(&kernel, &splits.grid(s.c), &args)? };
        column_finish(device, partial.view(), splits.count, dgamma)
    }
}
