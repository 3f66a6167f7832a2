//! Launches of `batch_norm.cu`.

use super::{Backward, BatchNorm, Evaluation, Forward, Running};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{RowSplit, each, small, tile2d};
use crate::device::{Args, Device, Float, Grid, Module};

static PTX: Module = Module::new("batch_norm", include_str!("../../../ptx/batch_norm.ptx"));

/// Threads per block of the kernels with one channel per thread.
const THREADS: usize = 256;

/// Mirrors `BatchNorm` in `batch_norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
    eps: f32,
    momentum: f32,
    unbiased: f32,
    training: u32,
    rows: u32,
    splits: u32,
    tile_rows: u32,
}

impl BatchNorm {
    pub(super) fn splits(&self) -> RowSplit {
        RowSplit::of(self.n)
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        let splits = self.splits();
        Ok(Sizes {
            n: size("n", self.n)?,
            c: size("c", self.c)?,
            eps: self.eps as f32,
            momentum: self.momentum as f32,
            unbiased: self.unbiased() as f32,
            training: u32::from(self.training),
            rows: size("rows", splits.rows)?,
            splits: size("splits", splits.count)?,
            tile_rows: size("rows", tile2d(self.n, self.c).1)?,
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    /// Three launches.
    unsafe fn enqueue(self, s: &BatchNorm, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, y, mut mean, mut var } = self;
        if s.is_empty() {
            return Ok(());
        }
        let (sizes, splits) = (s.sizes()?, s.splits().count);
        let mut partial = device.alloc::<f32>("batch_norm.partial", 2 * splits * s.c)?;
        let args = Args::new(&sizes).read(x).write(partial.view_mut());
        let grid = Grid::new([s.c.div_ceil(THREADS), splits, 1], [THREADS as u32, 1, 1]);
        // SAFETY: x is [n, c], partial [splits, 2, c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("batch_norm_pieces"), &grid, &args)? };
        let args = Args::new(&sizes).read(partial.view());
        let args = args.write(mean.reborrow()).write(var.reborrow());
        // SAFETY: the statistics are [c]; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("batch_norm_stats"), &each(s.c), &args)? };
        let (mean, var) = (mean.as_view(), var.as_view());
        Evaluation::<Gpu, T> { x, weight, bias, mean, var, y }.launch(device, s)
    }
}

impl<'a, T: Float> Launch<'a> for Evaluation<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &BatchNorm, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let args = arguments(&s.sizes()?, s, self);
        let (grid, _) = tile2d(s.n, s.c);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("batch_norm_fwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    /// Two launches for the sums, where these are needed, and one for `dx`.
    unsafe fn enqueue(self, s: &BatchNorm, device: &Device) -> Result<()> {
        let Backward { x, weight, mean, var, dy, dx, dweight, dbias } = self;
        if s.is_empty() {
            return Ok(());
        }
        let (sizes, splits) = (s.sizes()?, s.splits());
        let summed = dweight.is_some() || dbias.is_some() || (s.training && dx.is_some());
        let mut sums = device.alloc::<f32>("batch_norm.sums", if summed { 2 * s.c } else { 0 })?;
        if summed {
            let partial = 2 * splits.count * s.c;
            let mut partial = device.alloc::<f32>("batch_norm.partial", partial)?;
            let args = Args::new(&sizes).read(x).read(mean).read(var).read(dy);
            let args = args.write(partial.view_mut());
            let kernel = PTX.kernel_of::<T>("batch_norm_columns");
            // SAFETY: the lengths were checked; partial is [2, splits, c].
            unsafe { device.launch(&kernel, &splits.grid(s.c), &args)? };
            let args = Args::new(&sizes).read(partial.view()).write(sums.view_mut());
            let args = args.write_if(dweight).write_if(dbias);
            // SAFETY: sums is [2, c], gradients are [c] or null; threads beyond c do nothing.
            unsafe { device.launch(&PTX.kernel("batch_norm_sums"), &each(s.c), &args)? };
        }
        let Some(dx) = dx else { return Ok(()) };
        let args = Args::new(&sizes).read(x).read(weight).read(mean).read(var);
        let args = args.read_if(summed.then(|| sums.view())).read(dy).write(dx);
        let (grid, _) = tile2d(s.n, s.c);
        // SAFETY: the lengths were checked, and the sums are there in training, where they are read;
        // threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("batch_norm_bwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Running<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &BatchNorm, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; threads beyond channel c do nothing.
        unsafe { device.launch(&PTX.kernel("batch_norm_running"), &each(s.c), &args) }
    }
}
