//! Launch of `transpose.cu`.

use super::{TILE, Transpose};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

static PTX: Module = Module::new("transpose", include_str!("../../../ptx/transpose.ptx"));

/// Threads of a block along y; equals `ROWS` in `transpose.cu`.
const ROWS: u32 = 8;

/// Mirrors `Transpose` in `transpose.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    m: u32,
}

impl Transpose {
    /// [`Transpose::forward`] on a device. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; more than 65535 matrices or tiles of rows; a
    /// failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        let all = self.b * self.n * self.m;
        check_count("transpose", "x", x.len(), all)?;
        check_count("transpose", "y", y.len(), all)?;
        let sizes =
            Sizes { n: small("transpose", "n", self.n)?, m: small("transpose", "m", self.m)? };
        let args = Args::new(&sizes).read(x).write(y);
        let tiles = [self.m.div_ceil(TILE), self.n.div_ceil(TILE), self.b];
        let grid = Grid::new(tiles, [TILE as u32, ROWS, 1]);
        // SAFETY: the lengths were checked; elements beyond the last row or column are skipped.
        unsafe { device.launch(&PTX.kernel_of::<T>("transpose"), &grid, &args) }
    }
}
