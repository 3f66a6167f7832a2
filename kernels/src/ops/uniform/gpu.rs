//! Launch of `uniform.cu`.

use super::{Philox, Uniform};
use crate::device::sizes::small;
use crate::device::{Args, Device, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

static PTX: Module = Module::new("uniform", include_str!("../../../ptx/uniform.ptx"));

/// Threads per block.
const THREADS: usize = 256;

/// Mirrors `Uniform` in `uniform.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    key: [u32; 2],
    sample: [u32; 2],
    rows: u32,
    draws: u32,
}

impl Uniform {
    /// [`Uniform::fill`] on a device, bitwise equal to the CPU. `step` `[1]` has the low 32 bits of
    /// the step. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn fill_gpu(
        &self,
        device: &Device,
        step: View<'_, i32>,
        rows: Option<View<'_, i32>>,
        out: ViewMut<'_, f32>,
    ) -> Result<()> {
        check_count("uniform", "step", step.len(), 1)?;
        check_count("uniform", "rows", rows.map_or(self.rows, |rows| rows.len()), self.rows)?;
        check_count("uniform", "out", out.len(), self.streams * self.rows * self.draws)?;
        if out.is_empty() {
            return Ok(());
        }
        let sizes = Sizes {
            key: Philox::key(self.seed, self.purpose),
            sample: [self.first as u32, (self.first >> 32) as u32],
            rows: small("uniform", "rows", self.rows)?,
            draws: small("uniform", "draws", self.draws)?,
        };
        // A row that does not begin at a block boundary uses one block more than it fills.
        let blocks = (self.draws.div_ceil(4) + 1).div_ceil(THREADS);
        let grid = Grid::new([blocks, self.rows, self.streams], [THREADS as u32, 1, 1]);
        let args = Args::new(&sizes).read(step).read_if(rows).write(out);
        // SAFETY: the lengths were checked; draws before and after a row are not stored.
        unsafe { device.launch(&PTX.kernel("uniform_fill"), &grid, &args) }
    }
}
