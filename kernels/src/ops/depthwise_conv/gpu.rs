//! Launches of `depthwise_conv.cu`.

use super::{Backward, DepthwiseConv, Forward, ParameterGradients};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::reduce;
use crate::ops::transpose::{self, Transpose};

static PTX: Module = Module::new("depthwise_conv", include_str!("../../../ptx/depthwise_conv.ptx"));

/// Threads of a block, pixels of a thread, taps that are read together, and channels of a vector and
/// of a block of sums, as in `depthwise_conv.cu`.
const THREADS: u32 = 128;
const PIXELS: usize = 4;
const TAPS: usize = 7;
const VECTOR: usize = 8;
const CHANNELS: usize = 32 * VECTOR;

/// Fewest lines of pixels per split: one for each warp.
const LINES: usize = 8;

/// Mirrors `DepthwiseConv` in `depthwise_conv.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    h: u32,
    w: u32,
    c: u32,
    ho: u32,
    wo: u32,
    k: u32,
    pad: u32,
    turned: u32,
    lines: u32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &DepthwiseConv, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, y } = self;
        s.convolve(device, false, x, weight, bias, y)
    }
}

/// The convolution of `dy` with the kernel turned by half a turn.
impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &DepthwiseConv, device: &Device) -> Result<()> {
        let Backward { weight, dy, dx } = self;
        s.turned().convolve(device, true, dy, weight, None, dx)
    }
}

impl<'a, T: Float> Launch<'a> for ParameterGradients<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &DepthwiseConv, device: &Device) -> Result<()> {
        let ParameterGradients { x, dy, dweight, dbias } = self;
        if let (Some(x), Some(dweight)) = (x, dweight) {
            s.dweight(device, x, dy, dweight)?;
        }
        match dbias {
            Some(dbias) => reduce::column_sums_gpu(device, dy, dy.len() / s.c.max(1), dbias),
            None => Ok(()),
        }
    }
}

impl DepthwiseConv {
    fn convolve<T: Float>(
        &self,
        device: &Device,
        turned: bool,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: Option<View<'_, f32>>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        if y.is_empty() {
            return Ok(());
        }
        let (ho, wo) = self.output()?;
        let weight = self.by_taps(device, weight)?;
        let sizes = Sizes { turned: u32::from(turned), ..self.sizes()? };
        let threads = wo.div_ceil(PIXELS) * self.c.div_ceil(VECTOR);
        let blocks = [threads.div_ceil(THREADS as usize), ho, self.b];
        let grid = Grid::new(blocks, [THREADS, 1, 1]);
        let args = Args::new(&sizes).read(x).read(weight.view()).read_if(bias).write(y);
        // SAFETY: the lengths were checked; threads beyond the last pixel of a row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("depthwise_conv"), &grid, &args) }
    }

    fn dweight<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        dy: View<'_, T>,
        dweight: ViewMut<'_, f32>,
    ) -> Result<()> {
        if dy.is_empty() {
            return Ok(());
        }
        let all = self.b * self.output()?.0;
        let lines = all.div_ceil(128).max(LINES);
        let splits = all.div_ceil(lines);
        let sizes = Sizes { lines: small(Self::NAME, "lines", lines)?, ..self.sizes()? };
        let mut partial = device.alloc("depthwise_conv.partial", splits * dweight.len())?;
        let rows_of_taps = self.k * self.k.div_ceil(TAPS);
        let blocks = [self.c.div_ceil(CHANNELS), splits, rows_of_taps];
        let grid = Grid::new(blocks, [CHANNELS as u32, 1, 1]);
        let args = Args::new(&sizes).read(x).read(dy).write(partial.view_mut());
        // SAFETY: the lengths were checked; partial is [splits, c, k, k], each element of which
        // belongs to one thread.
        unsafe { device.launch(&PTX.kernel_of::<T>("depthwise_conv_pieces"), &grid, &args)? };
        reduce::column_finish(device, partial.view(), splits, dweight)
    }

    /// The weight `[c, k, k]` as `[k, k, c]`.
    fn by_taps<T: Float>(&self, device: &Device, weight: View<'_, T>) -> Result<Buffer<T>> {
        let size = Transpose { b: 1, n: self.c, m: self.k * self.k };
        let mut out = device.alloc("depthwise_conv.weight", weight.len())?;
        let call = transpose::Forward::<Gpu, _> { x: weight, y: out.view_mut() };
        call.launch(device, &size)?;
        Ok(out)
    }

    fn sizes(&self) -> Result<Sizes> {
        let (ho, wo) = self.output()?;
        let size = |name, n| small(Self::NAME, name, n);
        size("elements of a row", self.w.max(wo) * self.c)?;
        size("rows of all images", self.b * self.h.max(ho))?;
        Ok(Sizes {
            b: size("b", self.b)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            c: size("c", self.c)?,
            ho: size("ho", ho)?,
            wo: size("wo", wo)?,
            k: size("k", self.k)?,
            pad: size("pad", self.pad)?,
            turned: 0,
            lines: 0,
        })
    }
}
