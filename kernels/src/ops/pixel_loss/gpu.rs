//! Launches of `pixel_loss.cu`.

use super::{Backward, Forward, PixelLoss};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{each, small};
use crate::device::{Args, Device, Float, Module};
use crate::ops::reduce::sum_gpu;

static PTX: Module = Module::new("pixel_loss", include_str!("../../../ptx/pixel_loss.ptx"));

/// Mirrors `PixelLoss` in `pixel_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    k: u32,
    n: u32,
    scale: f32,
}

impl PixelLoss {
    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        size("pixels of all images", self.b * self.n)?;
        let (b, k, n) = (size("b", self.b)?, size("k", self.k)?, size("n", self.n)?);
        Ok(Sizes { b, k, n, scale: self.scale() as f32 })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PixelLoss, device: &Device) -> Result<()> {
        let Forward { x, labels, lse, loss } = self;
        let grid = each(s.b * s.n);
        let mut partial = device.alloc::<f32>("pixel_loss.partial", grid.blocks[0])?;
        let args = Args::new(&s.sizes()?).read(x).read(labels);
        let args = args.write(lse).write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("pixel_loss_fwd");
        // SAFETY: the lengths were checked; threads beyond the last pixel add 0 to the sum of their
        // block, and each block has an element of `partial`.
        unsafe { device.launch(&kernel, &grid, &args)? };
        sum_gpu(device, partial.view(), loss)
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PixelLoss, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let kernel = PTX.kernel_of::<T>("pixel_loss_bwd");
        // SAFETY: the lengths were checked; threads beyond the last pixel do nothing.
        unsafe { device.launch(&kernel, &each(s.b * s.n), &args) }
    }
}
