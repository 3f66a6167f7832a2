//! Launches of `relative_position.cu`.

use super::{OP, RelativePosition};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::reduce::column_finish;
use crate::{KernelError, Result, check_count};

static PTX: Module =
    Module::new("relative_position", include_str!("../../../ptx/relative_position.ptx"));

/// Threads per block, and queries or table rows per block (`ROWS` of the source).
const THREADS: u32 = 128;
const ROWS: usize = 64;

/// Maximum splits of a sum over queries: about one per SM, each with two blocks of table rows.
const SPLITS: usize = 128;

/// Mirrors `RelativePosition` in `relative_position.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    heads: u32,
    h: u32,
    w: u32,
    columns: u32,
    chunks: u32,
    q_token: u32,
    unused: u32,
    q_image: u64,
}

impl RelativePosition {
    /// [`RelativePosition::forward`] on a device, for heads of 80 channels; `qkv` and the tables
    /// begin at multiples of 16 bytes. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a head width without a kernel; a failure of
    /// the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        tables: [View<'_, T>; 2],
        rel: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.sizes(qkv.len(), tables.map(|t| t.len()), rel.len())?;
        let args = Args::new(&sizes).read(qkv).read(tables[0]).read(tables[1]).write(rel);
        let kernel = PTX.kernel_of::<T>("relative_position_fwd_80");
        // SAFETY: the lengths were checked; rows beyond the queries or a table are not touched.
        unsafe { device.launch(&kernel, &self.by_queries(), &args) }
    }

    /// [`RelativePosition::backward`] on a device; gradients of tables are f32. One launch for the
    /// queries, two for each table.
    ///
    /// # Errors
    /// As [`RelativePosition::forward_gpu`].
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: View<'_, T>,
        tables: [View<'_, T>; 2],
        drel: View<'_, T>,
        dqkv: Option<ViewMut<'_, T>>,
        dtables: [Option<ViewMut<'_, f32>>; 2],
    ) -> Result<()> {
        let sizes = self.sizes(qkv.len(), tables.map(|t| t.len()), drel.len())?;
        if let Some(dqkv) = dqkv {
            check_count(OP, "dqkv", dqkv.len(), qkv.len())?;
            let args = Args::new(&sizes).read(tables[0]).read(tables[1]).read(drel).write(dqkv);
            let kernel = PTX.kernel_of::<T>("relative_position_dq_80");
            // SAFETY: as in the forward pass; each element of dqkv belongs to one lane.
            unsafe { device.launch(&kernel, &self.by_queries(), &args)? };
        }
        let total = self.b * self.heads * (self.h * self.w).div_ceil(ROWS);
        for (columns, (table, d)) in tables.into_iter().zip(dtables).enumerate() {
            let Some(d) = d else { continue };
            check_count(OP, "gradient of a table", d.len(), table.len())?;
            let chunks = total.div_ceil(SPLITS).max(1);
            let splits = total.div_ceil(chunks);
            let mut partial = device.alloc("relative_position.partial", splits * table.len())?;
            let sizes = Sizes { columns: columns as u32, chunks: chunks as u32, ..sizes };
            let args = Args::new(&sizes).read(qkv).read(drel).write(partial.view_mut());
            let blocks = [(table.len() / self.d).div_ceil(ROWS), splits, 1];
            let grid = Grid::new(blocks, [THREADS, 1, 1]);
            let kernel = PTX.kernel_of::<T>("relative_position_table_80");
            // SAFETY: the lengths were checked; partial is [splits, 2 len - 1, d].
            unsafe { device.launch(&kernel, &grid, &args)? };
            column_finish(device, partial.view(), splits, d)?;
        }
        Ok(())
    }

    fn by_queries(&self) -> Grid {
        let tiles = (self.h * self.w).div_ceil(ROWS);
        Grid::new([tiles, self.heads, self.b], [THREADS, 1, 1])
    }

    fn sizes(&self, qkv: usize, tables: [usize; 2], rel: usize) -> Result<Sizes> {
        self.check(qkv, tables, rel)?;
        if self.d != 80 {
            let what = format!("heads of {} channels have no GPU kernel", self.d);
            return Err(KernelError::Size { op: OP, what });
        }
        let (token, n) = (3 * self.heads * self.d, self.h * self.w);
        // The kernel uses signed integers, and tiles may extend past the end.
        small(OP, "queries", (self.b * self.heads * n).saturating_mul(2).saturating_add(256))?;
        small(OP, "a token", token.saturating_mul(2))?;
        Ok(Sizes {
            b: self.b as u32,
            heads: self.heads as u32,
            h: self.h as u32,
            w: self.w as u32,
            columns: 0,
            chunks: 0,
            q_token: token as u32,
            unused: 0,
            q_image: (n * token) as u64,
        })
    }
}
