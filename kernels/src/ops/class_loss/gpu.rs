//! Launches of `class_loss.cu`.

use super::ClassLoss;
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

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
    /// [`ClassLoss::forward`] on a device: writes the loss and the scale that the backward pass
    /// takes, `[1]` each. One launch. The targets are on the device and not checked: a row whose
    /// target is not in `0..k` is ignored, while the CPU version returns an error.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        targets: View<'_, i32>,
        class_weights: View<'_, f32>,
        loss: ViewMut<'_, f32>,
        scale: ViewMut<'_, f32>,
    ) -> Result<()> {
        let sizes = self.check_gpu(x.len(), targets.len(), class_weights.len())?;
        check_count("class_loss", "loss", loss.len(), 1)?;
        check_count("class_loss", "scale", scale.len(), 1)?;
        let args = Args::new(&sizes).read(x).read(targets).read(class_weights);
        let args = args.write(loss).write(scale);
        let kernel = PTX.kernel_of::<T>("class_loss_fwd");
        // SAFETY: the lengths were checked; targets beyond the classes are skipped.
        unsafe { device.launch(&kernel, &Grid::line(1, 1, 32 * WARPS as u32), &args) }
    }

    /// [`ClassLoss::backward`] on a device: writes `dx` for the incoming gradient `dloss` `[1]`,
    /// from the `scale` of the forward pass.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        targets: View<'_, i32>,
        class_weights: View<'_, f32>,
        scale: View<'_, f32>,
        dloss: View<'_, f32>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.check_gpu(x.len(), targets.len(), class_weights.len())?;
        check_count("class_loss", "scale", scale.len(), 1)?;
        check_count("class_loss", "dloss", dloss.len(), 1)?;
        check_count("class_loss", "dx", dx.len(), self.n * self.k)?;
        let args = Args::new(&sizes).read(x).read(targets).read(class_weights);
        let args = args.read(scale).read(dloss).write(dx);
        let grid = Grid::line(self.n, WARPS, 32 * WARPS as u32);
        // SAFETY: the lengths were checked; targets beyond the classes are skipped, warps beyond
        // row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("class_loss_bwd"), &grid, &args) }
    }

    fn check_gpu(&self, x: usize, targets: usize, class_weights: usize) -> Result<Sizes> {
        check_count("class_loss", "x", x, self.n * self.k)?;
        check_count("class_loss", "targets", targets, self.n)?;
        check_count("class_loss", "class_weights", class_weights, self.k)?;
        Ok(Sizes {
            n: small("class_loss", "n", self.n)?,
            k: small("class_loss", "k", self.k)?,
            weight: self.weight as f32,
            unused: 0,
        })
    }
}
