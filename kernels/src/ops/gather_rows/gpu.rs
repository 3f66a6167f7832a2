//! Launches of `gather_rows.cu`.

use super::GatherRows;
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

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
    /// [`GatherRows::forward`] on a device, bitwise equal to the CPU. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        indices: View<'_, i32>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("gather_rows", "x", x.len(), self.n * self.c)?;
        check_count("gather_rows", "indices", indices.len(), self.r)?;
        check_count("gather_rows", "y", y.len(), self.r * self.c)?;
        let args = Args::new(&self.sizes()?).read(x).read(indices).write(y);
        let kernel = PTX.kernel_of::<T>("gather_rows_fwd");
        // SAFETY: the lengths were checked; an index that is not a row is not read.
        unsafe { device.launch(&kernel, &self.grid(self.r), &args) }
    }

    /// [`GatherRows::backward`] on a device: sums in f32, rounded once. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        indices: View<'_, i32>,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("gather_rows", "indices", indices.len(), self.r)?;
        check_count("gather_rows", "dy", dy.len(), self.r * self.c)?;
        check_count("gather_rows", "dx", dx.len(), self.n * self.c)?;
        let args = Args::new(&self.sizes()?).read(indices).read(dy).write(dx);
        let kernel = PTX.kernel_of::<T>("gather_rows_bwd");
        // SAFETY: the lengths were checked; block i writes row i of dx.
        unsafe { device.launch(&kernel, &self.grid(self.n), &args) }
    }

    fn grid(&self, rows: usize) -> Grid {
        Grid::new([rows, self.c.div_ceil(THREADS), 1], [THREADS as u32, 1, 1])
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small("gather_rows", name, n);
        Ok(Sizes { n: size("n", self.n)?, r: size("r", self.r)?, c: size("c", self.c)? })
    }
}
