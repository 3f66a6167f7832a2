//! Launch of `row_width.cu`.

use super::{OP, RowWidth};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

static PTX: Module = Module::new("row_width", include_str!("../../../ptx/row_width.ptx"));

/// Mirrors `RowWidth` in `row_width.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    from: u32,
    to: u32,
    period: u32,
    scaled: u32,
    factor: f32,
}

impl RowWidth {
    /// [`RowWidth::run`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a period of 0; a failure of the device.
    pub fn run_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        self.check()?;
        check_count(OP, "x", x.len(), self.n * self.from)?;
        check_count(OP, "y", y.len(), self.n * self.to)?;
        let size = |name, n| small(OP, name, n);
        size("elements", y.len().saturating_add(256))?;
        let sizes = Sizes {
            n: size("n", self.n)?,
            from: size("from", self.from)?,
            to: size("to", self.to)?,
            period: size("period", self.period)?,
            scaled: size("scaled", self.scaled)?,
            factor: self.factor,
        };
        let grid = Grid::line(y.len(), 256, 256);
        let args = Args::new(&sizes).read(x).write(y);
        // SAFETY: the lengths were checked; threads beyond the last element do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("row_width"), &grid, &args) }
    }
}
