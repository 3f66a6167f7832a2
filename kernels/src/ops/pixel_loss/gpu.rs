//! Launches of `pixel_loss.cu`.

use super::{OP, PixelLoss};
use crate::device::sizes::{each, small};
use crate::device::{Args, Device, Float, Module, View, ViewMut};
use crate::ops::reduce::sum_gpu;
use crate::{Result, check_count};

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
    /// [`PixelLoss::forward`] on a device: writes the loss `[1]` and `lse`. Two launches, or three
    /// above 4 million pixels.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        labels: View<'_, u8>,
        mut lse: ViewMut<'_, f32>,
        loss: ViewMut<'_, f32>,
    ) -> Result<()> {
        self.check(x.len(), labels.len(), lse.len())?;
        check_count(OP, "loss", loss.len(), 1)?;
        let grid = each(self.b * self.n);
        let mut partial = device.alloc::<f32>("pixel_loss.partial", grid.blocks[0])?;
        let args = Args::new(&self.sizes()?).read(x).read(labels);
        let args = args.write(lse.reborrow()).write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("pixel_loss_fwd");
        // SAFETY: the lengths were checked; threads beyond the last pixel add 0 to the sum of their
        // block, and each block has an element of `partial`.
        unsafe { device.launch(&kernel, &grid, &args)? };
        sum_gpu(device, partial.view(), loss)
    }

    /// [`PixelLoss::backward`] on a device: writes `dx` for the incoming gradient `dloss` `[1]`.
    /// One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        labels: View<'_, u8>,
        lse: View<'_, f32>,
        dloss: View<'_, f32>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        self.check(x.len(), labels.len(), lse.len())?;
        check_count(OP, "dloss", dloss.len(), 1)?;
        check_count(OP, "dx", dx.len(), self.b * self.k * self.n)?;
        let args = Args::new(&self.sizes()?).read(x).read(labels).read(lse).read(dloss).write(dx);
        let kernel = PTX.kernel_of::<T>("pixel_loss_bwd");
        // SAFETY: the lengths were checked; threads beyond the last pixel do nothing.
        unsafe { device.launch(&kernel, &each(self.b * self.n), &args) }
    }

    fn sizes(&self) -> Result<Sizes> {
        small(OP, "pixels of all images", self.b * self.n)?;
        Ok(Sizes {
            b: small(OP, "b", self.b)?,
            k: small(OP, "k", self.k)?,
            n: small(OP, "n", self.n)?,
            scale: self.scale() as f32,
        })
    }
}
