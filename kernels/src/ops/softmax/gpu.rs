//! Launches of `softmax.cu`.

use super::{OP, Softmax};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

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
    /// [`Softmax::forward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.check_gpu(&[("x", x.len()), ("y", y.len())])?;
        let args = Args::new(&sizes).read(x).write(y);
        // SAFETY: the lengths were checked; warps beyond row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("softmax_fwd"), &self.grid(), &args) }
    }

    /// [`Softmax::backward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        y: View<'_, T>,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.check_gpu(&[("y", y.len()), ("dy", dy.len()), ("dx", dx.len())])?;
        let args = Args::new(&sizes).read(y).read(dy).write(dx);
        // SAFETY: the lengths were checked; warps beyond row n do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("softmax_bwd"), &self.grid(), &args) }
    }

    fn grid(&self) -> Grid {
        Grid::line(self.n, WARPS, 32 * WARPS as u32)
    }

    fn check_gpu(&self, lengths: &[(&'static str, usize)]) -> Result<Sizes> {
        lengths.iter().try_for_each(|&(name, len)| check_count(OP, name, len, self.n * self.c))?;
        Ok(Sizes { n: small(OP, "n", self.n)?, c: small(OP, "c", self.c)? })
    }
}
