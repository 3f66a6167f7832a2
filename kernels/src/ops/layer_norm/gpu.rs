//! Launches of `layer_norm.cu`.

use super::LayerNorm;
use crate::device::sizes::{RowSplit, small};
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::reduce::column_finish;
use crate::{Result, Write, check_count};

static PTX: Module = Module::new("layer_norm", include_str!("../../../ptx/layer_norm.ptx"));

/// Rows per block, one per warp.
const ROWS: usize = 4;

/// Mirrors `LayerNorm` in `layer_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
    eps: f32,
    rows: u32,
    add: u32,
}

/// [`super::Stats`] on a device.
#[derive(Debug, Clone, Copy)]
pub struct StatsGpu<'a> {
    /// Mean of each set.
    pub mean: View<'a, f32>,
    /// Reciprocal standard deviation of each set.
    pub rstd: View<'a, f32>,
}

impl LayerNorm {
    /// [`LayerNorm::forward`] on a device: writes `y`, `mean` and `rstd`.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, f32>,
        bias: View<'_, f32>,
        y: ViewMut<'_, T>,
        mean: ViewMut<'_, f32>,
        rstd: ViewMut<'_, f32>,
    ) -> Result<()> {
        let (all, rows) = (self.n * self.c, self.n);
        for (name, found, expected) in [
            ("x", x.len(), all),
            ("weight", weight.len(), self.c),
            ("bias", bias.len(), self.c),
            ("y", y.len(), all),
            ("mean", mean.len(), rows),
            ("rstd", rstd.len(), rows),
        ] {
            check_count("layer_norm", name, found, expected)?;
        }
        let args = Args::new(&self.sizes(0, Write::Over)?);
        let args = args.read(x).read(weight).read(bias).write(y).write(mean).write(rstd);
        // SAFETY: the lengths were checked; a warp beyond row n does nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("layer_norm_fwd"), &self.by_rows(), &args) }
    }

    /// [`LayerNorm::backward`] on a device: writes `dx` or adds to it; adds to `dweight` and
    /// `dbias`. Each is optional.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, f32>,
        stats: StatsGpu<'_>,
        dy: View<'_, T>,
        dx: Option<(ViewMut<'_, T>, Write)>,
        dweight: Option<ViewMut<'_, f32>>,
        dbias: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        let length = |d: &Option<ViewMut<'_, f32>>| d.as_ref().map_or(self.c, ViewMut::len);
        for (name, found, expected) in [
            ("x", x.len(), self.n * self.c),
            ("weight", weight.len(), self.c),
            ("mean", stats.mean.len(), self.n),
            ("rstd", stats.rstd.len(), self.n),
            ("dy", dy.len(), self.n * self.c),
            ("dx", dx.as_ref().map_or(self.n * self.c, |(dx, _)| dx.len()), self.n * self.c),
            ("dweight", length(&dweight), self.c),
            ("dbias", length(&dbias), self.c),
        ] {
            check_count("layer_norm", name, found, expected)?;
        }
        if let Some((dx, write)) = dx {
            let args = Args::new(&self.sizes(0, write)?).read(x).read(weight);
            let args = args.read(stats.mean).read(stats.rstd).read(dy).write(dx);
            // SAFETY: the lengths were checked; a warp beyond row n does nothing.
            unsafe { device.launch(&PTX.kernel_of::<T>("layer_norm_bwd"), &self.by_rows(), &args)? }
        }
        if (dweight.is_none() && dbias.is_none()) || x.is_empty() {
            return Ok(());
        }
        let splits = RowSplit::of(self.n);
        let each = splits.count * self.c;
        let mut partial = device.alloc("layer_norm.partial", 2 * each)?;
        let args = Args::new(&self.sizes(splits.rows, Write::Over)?).read(x);
        let args = args.read(stats.mean).read(stats.rstd).read(dy).write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("layer_norm_columns");
        // SAFETY: the lengths were checked; partial holds two sums per split and column.
        unsafe { device.launch(&kernel, &splits.grid(self.c), &args)? };
        for (out, at) in [(dweight, 0), (dbias, each)] {
            if let Some(out) = out {
                column_finish(device, partial.view().slice(at..at + each), splits.count, out)?;
            }
        }
        Ok(())
    }

    fn by_rows(&self) -> Grid {
        Grid::line(self.n, ROWS, 32 * ROWS as u32)
    }

    fn sizes(&self, rows: usize, write: Write) -> Result<Sizes> {
        Ok(Sizes {
            n: small("layer_norm", "n", self.n)?,
            c: small("layer_norm", "c", self.c)?,
            eps: self.eps as f32,
            rows: small("layer_norm", "rows", rows)?,
            add: u32::from(write == Write::Add),
        })
    }
}
