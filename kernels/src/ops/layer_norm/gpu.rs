//! Launches of `layer_norm.cu`.

use super::{Backward, Forward, LayerNorm};
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{RowSplit, small};
use crate::device::{Args, Device, Float, Grid, Module};
use crate::ops::reduce::column_finish;
use crate::{Result, Write};

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

impl LayerNorm {
    fn by_rows(&self) -> Grid {
        Grid::line(self.n, ROWS, 32 * ROWS as u32)
    }

    fn sizes(&self, rows: usize, write: Write) -> Result<Sizes> {
        Ok(Sizes {
            n: small(Self::NAME, "n", self.n)?,
            c: small(Self::NAME, "c", self.c)?,
            eps: self.eps as f32,
            rows: small(Self::NAME, "rows", rows)?,
            add: u32::from(write == Write::Add),
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &LayerNorm, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes(0, Write::Over)?, s, self);
        // SAFETY: the lengths were checked; a warp beyond row n does nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("layer_norm_fwd"), &s.by_rows(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &LayerNorm, device: &Device) -> Result<()> {
        let Backward { x, weight, mean, rstd, dy, dx, write, dweight, dbias } = self;
        if let Some(dx) = dx {
            let args = Args::new(&s.sizes(0, write)?).read(x).read(weight);
            let args = args.read(mean).read(rstd).read(dy).write(dx);
            // SAFETY: the lengths were checked; a warp beyond row n does nothing.
            unsafe { device.launch(&PTX.kernel_of::<T>("layer_norm_bwd"), &s.by_rows(), &args)? }
        }
        if (dweight.is_none() && dbias.is_none()) || x.is_empty() {
            return Ok(());
        }
        let splits = RowSplit::of(s.n);
        let each = splits.count * s.c;
        let mut partial = device.alloc("layer_norm.partial", 2 * each)?;
        let args = Args::new(&s.sizes(splits.rows, Write::Over)?).read(x);
        let args = args.read(mean).read(rstd).read(dy).write(partial.view_mut());
        let kernel = PTX.kernel_of::<T>("layer_norm_columns");
        // SAFETY: the lengths were checked; partial holds two sums per split and column.
        unsafe { device.launch(&kernel, &splits.grid(s.c), &args)? };
        for (out, at) in [(dweight, 0), (dbias, each)] {
            if let Some(out) = out {
                column_finish(device, partial.view().slice(at..at + each), splits.count, out)?;
            }
        }
        Ok(())
    }
}
