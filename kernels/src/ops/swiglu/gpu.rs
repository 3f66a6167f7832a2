//! Launches of `swiglu.cu`.

use super::Swiglu;
use crate::device::sizes::{small, tile2d};
use crate::device::{Args, Device, Float, Module, View, ViewMut};
use crate::{Result, check_count};

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
    /// [`Swiglu::forward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("swiglu", "x", x.len(), 2 * self.n * self.h)?;
        check_count("swiglu", "y", y.len(), self.n * self.h)?;
        let (grid, rows) = tile2d(self.n, self.h);
        let args = Args::new(&self.sizes(rows)?).read(x).write(y);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("swiglu_fwd"), &grid, &args) }
    }

    /// [`Swiglu::backward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("swiglu", "x", x.len(), 2 * self.n * self.h)?;
        check_count("swiglu", "dy", dy.len(), self.n * self.h)?;
        check_count("swiglu", "dx", dx.len(), 2 * self.n * self.h)?;
        let (grid, rows) = tile2d(self.n, self.h);
        let args = Args::new(&self.sizes(rows)?).read(x).read(dy).write(dx);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("swiglu_bwd"), &grid, &args) }
    }

    fn sizes(&self, rows: usize) -> Result<Sizes> {
        Ok(Sizes {
            n: small("swiglu", "n", self.n)?,
            h: small("swiglu", "h", self.h)?,
            rows: small("swiglu", "rows", rows)?,
        })
    }
}
