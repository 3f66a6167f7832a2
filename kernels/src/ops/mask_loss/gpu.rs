//! Launches of `mask_loss.cu`.

use super::MaskLoss;
use crate::device::sizes::{small, tile2d};
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

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

/// Inputs of both passes; they stay on the device.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a, T> {
    /// Mask logits at the points, `[r, p]`.
    pub x: View<'a, T>,
    /// Targets at the points, `[r, p]`.
    pub t: View<'a, f32>,
    /// Weight of each pair, `[r]`, 0 for padding; `None` is 1.
    pub weights: Option<View<'a, f32>>,
    /// Number of pairs that the losses are divided by, `[1]`, positive.
    pub num: View<'a, f32>,
}

impl MaskLoss {
    /// [`MaskLoss::forward`] on a device: writes the losses, cross-entropy first, `[2]`, and `sums`
    /// `[r, 4]`: the three sums of the CPU version and the cross-entropy of the pair. Two launches.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; pairs without points; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        pairs: Pairs<'_, T>,
        mut sums: ViewMut<'_, f32>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        let sizes = self.check_gpu(&pairs, 0)?;
        check_count("mask_loss", "sums", sums.len(), 4 * self.r)?;
        check_count("mask_loss", "losses", losses.len(), 2)?;
        let args = Args::new(&sizes).read(pairs.x).read(pairs.t).write(sums.reborrow());
        let grid = Grid::line(self.r, 1, 256);
        // SAFETY: the lengths were checked; block i takes pair i.
        unsafe { device.launch(&PTX.kernel_of::<T>("mask_loss_rows"), &grid, &args)? };
        let args = Args::new(&sizes).read(sums.as_view()).read_if(pairs.weights);
        let args = args.read(pairs.num).write(losses);
        // SAFETY: the lengths were checked; threads beyond pair r add nothing.
        unsafe { device.launch(&PTX.kernel("mask_loss_finish"), &Grid::line(1, 1, 256), &args) }
    }

    /// [`MaskLoss::backward`] on a device: writes `dx` `[r, p]` for the incoming gradients
    /// `dlosses` `[2]`, from the `sums` of the forward pass.
    ///
    /// # Errors
    /// As [`MaskLoss::forward_gpu`].
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        pairs: Pairs<'_, T>,
        sums: View<'_, f32>,
        dlosses: View<'_, f32>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        let (grid, rows) = tile2d(self.r, self.p);
        let sizes = self.check_gpu(&pairs, rows)?;
        check_count("mask_loss", "sums", sums.len(), 4 * self.r)?;
        check_count("mask_loss", "dlosses", dlosses.len(), 2)?;
        check_count("mask_loss", "dx", dx.len(), self.r * self.p)?;
        let args = Args::new(&sizes).read(pairs.x).read(pairs.t).read(sums);
        let args = args.read_if(pairs.weights).read(pairs.num).read(dlosses).write(dx);
        // SAFETY: the lengths were checked; threads beyond a pair or the last one do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("mask_loss_bwd"), &grid, &args) }
    }

    fn check_gpu<T>(&self, pairs: &Pairs<'_, T>, rows: usize) -> Result<Sizes> {
        check_count("mask_loss", "x", pairs.x.len(), self.r * self.p)?;
        check_count("mask_loss", "t", pairs.t.len(), self.r * self.p)?;
        check_count("mask_loss", "num", pairs.num.len(), 1)?;
        let weights = pairs.weights.map_or(self.r, |weights| weights.len());
        check_count("mask_loss", "weights", weights, self.r)?;
        if self.r > 0 && self.p == 0 {
            return Err(KernelError::Size { op: "mask_loss", what: "there are no points".into() });
        }
        Ok(Sizes {
            r: small("mask_loss", "r", self.r)?,
            p: small("mask_loss", "p", self.p)?,
            rows: small("mask_loss", "rows", rows)?,
            mask_weight: self.mask_weight as f32,
            dice_weight: self.dice_weight as f32,
            unused: 0,
        })
    }
}
