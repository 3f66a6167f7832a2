//! Launches of `relative_position.cu`.

use super::{Forward, QueryGradient, RelativePosition, TableGradients};
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module};
use crate::ops::reduce::column_finish;
use crate::{KernelError, Result};

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

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &RelativePosition, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let kernel = PTX.kernel_of::<T>("relative_position_fwd_80");
        // SAFETY: the lengths were checked; rows beyond the queries or a table are not touched.
        unsafe { device.launch(&kernel, &s.by_queries(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for QueryGradient<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &RelativePosition, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let kernel = PTX.kernel_of::<T>("relative_position_dq_80");
        // SAFETY: as in the forward pass; each element of dqkv belongs to one lane.
        unsafe { device.launch(&kernel, &s.by_queries(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for TableGradients<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &RelativePosition, device: &Device) -> Result<()> {
        let TableGradients { qkv, drel, drows, dcolumns } = self;
        let sizes = s.sizes()?;
        let total = s.b * s.heads * (s.h * s.w).div_ceil(ROWS);
        for (columns, d) in [drows, dcolumns].into_iter().enumerate() {
            let Some(d) = d else { continue };
            let chunks = total.div_ceil(SPLITS).max(1);
            let splits = total.div_ceil(chunks);
            let mut partial = device.alloc("relative_position.partial", splits * d.len())?;
            let sizes = Sizes { columns: columns as u32, chunks: chunks as u32, ..sizes };
            let args = Args::new(&sizes).read(qkv).read(drel).write(partial.view_mut());
            let blocks = [(d.len() / s.d).div_ceil(ROWS), splits, 1];
            let grid = Grid::new(blocks, [THREADS, 1, 1]);
            let kernel = PTX.kernel_of::<T>("relative_position_table_80");
            // SAFETY: the lengths were checked; partial is [splits, 2 len - 1, d].
            unsafe { device.launch(&kernel, &grid, &args)? };
            column_finish(device, partial.view(), splits, d)?;
        }
        Ok(())
    }
}

impl RelativePosition {
    fn by_queries(&self) -> Grid {
        let tiles = (self.h * self.w).div_ceil(ROWS);
        Grid::new([tiles, self.heads, self.b], [THREADS, 1, 1])
    }

    fn sizes(&self) -> Result<Sizes> {
        if self.d != 80 {
            let what = format!("heads of {} channels have no GPU kernel", self.d);
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        let (token, n) = (3 * self.heads * self.d, self.h * self.w);
        // The kernel uses signed integers, and tiles may extend past the end.
        small(
            Self::NAME,
            "queries",
            (self.b * self.heads * n).saturating_mul(2).saturating_add(256),
        )?;
        small(Self::NAME, "a token", token.saturating_mul(2))?;
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
