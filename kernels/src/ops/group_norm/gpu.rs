//! Launches of `group_norm.cu`.

use super::GroupNorm;
use crate::device::sizes::{RowSplit, small, tile2d};
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

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

/// [`super::Stats`] on a device.
#[derive(Debug, Clone, Copy)]
pub struct StatsGpu<'a> {
    /// Mean of each group.
    pub mean: View<'a, f32>,
    /// Reciprocal standard deviation of each group.
    pub rstd: View<'a, f32>,
}

impl GroupNorm {
    /// [`GroupNorm::forward`] on a device: writes `y`, `mean` and `rstd`. Three launches.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a number of channels that is not a multiple of
    /// the groups; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, f32>,
        bias: View<'_, f32>,
        y: ViewMut<'_, T>,
        mut mean: ViewMut<'_, f32>,
        mut rstd: ViewMut<'_, f32>,
    ) -> Result<()> {
        let all = self.b * self.hw * self.c;
        self.check_gpu(&[("x", x.len(), all), ("y", y.len(), all)])?;
        self.check_gpu(&[("weight", weight.len(), self.c), ("bias", bias.len(), self.c)])?;
        let stats = self.b * self.groups;
        self.check_gpu(&[("mean", mean.len(), stats), ("rstd", rstd.len(), stats)])?;
        if all == 0 {
            return Ok(());
        }
        let sizes = self.sizes()?;
        let splits = self.splits();
        let partial = 2 * self.b * splits.count * self.c;
        let mut partial = device.alloc::<f32>("group_norm.partial", partial)?;
        let args = Args::new(&sizes).read(x).write(partial.view_mut());
        let grid = self.by_channels(splits.count);
        // SAFETY: x is [b, hw, c], partial [b, splits, 2, c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_pieces"), &grid, &args)? };
        let args = Args::new(&sizes).read(partial.view());
        let args = args.write(mean.reborrow()).write(rstd.reborrow());
        // SAFETY: the statistics are [b, groups]; warps beyond them do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_stats"), &self.by_groups(), &args)? };
        let args = Args::new(&sizes).read(x).read(weight).read(bias);
        let args = args.read(mean.as_view()).read(rstd.as_view()).write(y);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_fwd"), &self.by_tiles(), &args) }
    }

    /// [`GroupNorm::backward`] on a device: writes `dx` and adds to `dweight` and `dbias`; each is
    /// optional. Two launches for the sums and one or two for each requested output.
    ///
    /// # Errors
    /// As [`GroupNorm::forward_gpu`].
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, f32>,
        stats: StatsGpu<'_>,
        dy: View<'_, T>,
        dx: Option<ViewMut<'_, T>>,
        dweight: Option<ViewMut<'_, f32>>,
        dbias: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        let (all, groups) = (self.b * self.hw * self.c, self.b * self.groups);
        let length = |d: &Option<ViewMut<'_, f32>>| d.as_ref().map_or(self.c, ViewMut::len);
        self.check_gpu(&[
            ("x", x.len(), all),
            ("weight", weight.len(), self.c),
            ("mean", stats.mean.len(), groups),
            ("rstd", stats.rstd.len(), groups),
            ("dy", dy.len(), all),
            ("dx", dx.as_ref().map_or(all, ViewMut::len), all),
            ("dweight", length(&dweight), self.c),
            ("dbias", length(&dbias), self.c),
        ])?;
        if all == 0 || (dx.is_none() && dweight.is_none() && dbias.is_none()) {
            return Ok(());
        }
        let sizes = self.sizes()?;
        let splits = self.splits();
        let partial = 2 * self.b * splits.count * self.c;
        let mut partial = device.alloc::<f32>("group_norm.partial", partial)?;
        let mut sums = device.alloc::<f32>("group_norm.sums", 2 * self.b * self.c)?;
        let args = Args::new(&sizes).read(x).read(stats.mean).read(stats.rstd).read(dy);
        let args = args.write(partial.view_mut());
        let grid = splits.grid(self.c);
        let grid = Grid { blocks: [grid.blocks[0], grid.blocks[1], self.b], ..grid };
        // SAFETY: the lengths were checked; partial is [b, 2, splits, c].
        unsafe { device.launch(&PTX.kernel_of::<T>("group_norm_columns"), &grid, &args)? };
        let args = Args::new(&sizes).read(partial.view()).write(sums.view_mut());
        // SAFETY: sums is [b, 2, c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_sums"), &self.by_channels(2), &args)? };
        if let Some(dx) = dx {
            let mut means = device.alloc::<f32>("group_norm.means", 2 * groups)?;
            let args = Args::new(&sizes).read(weight).read(sums.view()).write(means.view_mut());
            // SAFETY: means is [2, b, groups]; warps beyond do nothing.
            unsafe { device.launch(&PTX.kernel("group_norm_means"), &self.by_groups(), &args)? };
            let args = Args::new(&sizes).read(x).read(weight).read(stats.mean).read(stats.rstd);
            let args = args.read(means.view()).read(dy).write(dx);
            let kernel = PTX.kernel_of::<T>("group_norm_bwd");
            // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
            unsafe { device.launch(&kernel, &self.by_tiles(), &args)? };
        }
        if dweight.is_none() && dbias.is_none() {
            return Ok(());
        }
        let args = Args::new(&sizes).read(sums.view()).write_if(dweight).write_if(dbias);
        let grid = Grid::line(self.c, THREADS, THREADS as u32);
        // SAFETY: the gradients are [c] or null; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("group_norm_params"), &grid, &args) }
    }

    fn check_gpu(&self, lengths: &[(&'static str, usize, usize)]) -> Result<()> {
        if self.groups == 0 || !self.c.is_multiple_of(self.groups) {
            let what = format!("{} channels do not divide into {} groups", self.c, self.groups);
            return Err(KernelError::Size { op: "group_norm", what });
        }
        lengths.iter().try_for_each(|&(name, found, expected)| {
            check_count("group_norm", name, found, expected)
        })
    }

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
        let size = |name, n| small("group_norm", name, n);
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
