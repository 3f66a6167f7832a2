//! Launches of `mask_loss.cu`.

use super::{Backward, Forward, MaskLoss};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::{small, tile2d};
use crate::device::{Args, Device, Float, Grid, Module};

static PTX: Module = Module::new("mask_loss", include_str!("../../../ptx/mask_loss.ptx"));

/// Mirrors `MaskLoss` in `mask_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    r: u32,
    p: u32,
    rows: u32,
    mask_weight: f32,
    dice_weight: f32,
    unused: u32,
}

impl MaskLoss {
    fn sizes(&self, rows: usize) -> Result<Sizes> {
        Ok(Sizes {
            r: small(Self::NAME, "r", self.r)?,
            p: small(Self::NAME, "p", self.p)?,
            rows: small(Self::NAME, "rows", rows)?,
            mask_weight: self.mask_weight as f32,
            dice_weight: self.dice_weight as f32,
            unused: 0,
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MaskLoss, device: &Device) -> Result<()> {
        let Forward { x, t, num, weights, mut sums, losses } = self;
        let sizes = s.sizes(0)?;
        let args = Args::new(&sizes).read(x).read(t).write(sums.reborrow());
        let grid = Grid::line(s.r, 1, 256);
        // SAFETY: the lengths were checked; block i takes pair i.
        unsafe { device.launch(&PTX.kernel_of::<T>("mask_loss_rows"), &grid, &args)? };
        let args = Args::new(&sizes).read(sums.as_view()).read_if(weights);
        let args = args.read(num).write(losses);
        // SAFETY: the lengths were checked; threads beyond pair r add nothing.
        unsafe { device.launch(&PTX.kernel("mask_loss_finish"), &Grid::line(1, 1, 256), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MaskLoss, device: &Device) -> Result<()> {
        let Backward { x, t, num, weights, sums, dlosses, dx } = self;
        let (grid, rows) = tile2d(s.r, s.p);
        let args = Args::new(&s.sizes(rows)?).read(x).read(t).read(sums);
        let args = args.read_if(weights).read(num).read(dlosses).write(dx);
        // SAFETY: the lengths were checked; threads beyond a pair or the last one do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("mask_loss_bwd"), &grid, &args) }
    }
}
