//! Launches of `group_norm.cu`.

use super::{Backward, Forward, GroupNorm};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::{RowSplit, small, tile2d};
use crate::device::{Args, Device, Float, Grid, Module};

static PTX: Module = Module::new("group_norm", include_str!("../../../ptx/group_norm.ptx"));

/// Threads per block of the kernels with one channel per thread or one group per warp.
const THREADS: usize = 256;

/// Mirrors `GroupNorm` in `group_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    hw: u32,
    c: u32,
    groups: u32,
    eps: f32,
    rows: u32,
    splits: u32,
    tile_rows: u32,
}

impl GroupNorm {
    pub(super) fn splits(&self) -> RowSplit {
        RowSplit::of(self.hw)
    }

    fn by_channels(&self, y: usize) -> Grid {
        Grid::new([self.c.div_ceil(THREADS), y, self.b], [THREADS as u32, 1, 1])
    }

    fn by_groups(&self) -> Grid {
        Grid::line(self.b * self.groups, THREADS / 32, THREADS as u32)
    }

    fn by_tiles(&self) -> Grid {
        let (grid, _) = tile2d(self.hw, self.c);
        Grid { blocks: [grid.blocks[0], grid.blocks[1], self.b], ..grid }
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        let splits = self.splits();
        Ok(Sizes {
            b: size("b", self.b)?,
            hw: size("hw", self.hw)?,
            c: size("c", self.c)?,
            groups: size("groups", self.groups)?,
            eps: self.eps as f32,
            rows: size("rows", splits.rows)?,
            splits: size("splits", splits.count)?,
            tile_rows: size("rows", tile2d(self.hw, self.c).1)?,
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    /// Three launches.
    unsafe fn enqueue(self, s: &GroupNorm, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, y, mut mean, mut rstd } = self;
        if s.is_empty() {
            return Ok(());
        }
        let sizes = s.sizes()?;
        let splits = s.splits();
        let partial = 2 * s.b * splits.count * s.c;
        let mut partial = device.alloc::<f32>("group_norm.partial", partial)?;
        let args = Args::new(&sizes).read(x).write(partial.view_mut());
        let grid = s.by_channels(splits.count);
        // SAFETY: x is [b, hw, c], partial [b, splits, 2, c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_pieces"), &grid, &args)? };
        let args = Args::new(&sizes).read(partial.view());
        let args = args.write(mean.reborrow()).write(rstd.reborrow());
        // SAFETY: the statistics are [b, groups]; warps beyond them do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_stats"), &s.by_groups(), &args)? };
        let args = Args::new(&sizes).read(x).read(weight).read(bias);
        let args = args.read(mean.as_view()).read(rstd.as_view()).write(y);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_fwd"), &s.by_tiles(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    /// Two launches for the sums and one or two for each requested output.
    unsafe fn enqueue(self, s: &GroupNorm, device: &Device) -> Result<()> {
        let Backward { x, weight, mean, rstd, dy, dx, dweight, dbias } = self;
        if s.is_empty() || (dx.is_none() && dweight.is_none() && dbias.is_none()) {
            return Ok(());
        }
        let sizes = s.sizes()?;
        let splits = s.splits();
        let partial = 2 * s.b * splits.count * s.c;
        let mut partial = device.alloc::<f32>("group_norm.partial", partial)?;
        let mut sums = device.alloc::<f32>("group_norm.sums", 2 * s.b * s.c)?;
        let args = Args::new(&sizes).read(x).read(mean).read(rstd).read(dy);
        let args = args.write(partial.view_mut());
        let grid = splits.grid(s.c);
        let grid = Grid { blocks: [grid.blocks[0], grid.blocks[1], s.b], ..grid };
        // SAFETY: the lengths were checked; partial is [b, 2, splits, c].
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_columns"), &grid, &args)? };
        let args = Args::new(&sizes).read(partial.view()).write(sums.view_mut());
        // SAFETY: sums is [b, 2, c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_sums"), &s.by_channels(2), &args)? };
        if let Some(dx) = dx {
            let mut means = device.alloc::<f32>("group_norm.means", 2 * s.sets())?;
            let args = Args::new(&sizes).read(weight).read(sums.view()).write(means.view_mut());
            // SAFETY: means is [2, b, groups]; warps beyond do nothing.
            unsafe { device.launch(&PTX.kernel("group_norm_means"), &s.by_groups(), &args)? };
            let args = Args::new(&sizes).read(x).read(weight).read(mean).read(rstd);
            let args = args.read(means.view()).read(dy).write(dx);
            let kernel = PTX.kernel_of::<T>("group_norm_bwd");
            // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
            unsafe { device.launch(&kernel, &s.by_tiles(), &args)? };
        }
        if dweight.is_none() && dbias.is_none() {
            return Ok(());
        }
        let args = Args::new(&sizes).read(sums.view()).write_if(dweight).write_if(dbias);
        let grid = Grid::line(s.c, THREADS, THREADS as u32);
        // SAFETY: the gradients are [c] or null; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_params"), &grid, &args) }
    }
}
