//! Tap tables on a device and launches of `resize.cu`.

use super::{Axis, Backward, Forward, Resize, Taps};
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Constant, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result};

static PTX: Module = Module::new("resize", include_str!("../../../ptx/resize.ptx"));

/// Threads per block and elements per vector, as in `vectors.cuh`.
const THREADS: u32 = 256;
const VECTOR: usize = 8;

/// Mirrors `Resize` in `resize.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    h: u32,
    w: u32,
    ho: u32,
    wo: u32,
    c: u32,
    taps_y: u32,
    taps_x: u32,
}

/// One direction of an axis on a device.
#[derive(Debug)]
pub(crate) struct TapsGpu {
    pub n_in: usize,
    pub n_out: usize,
    pub width: usize,
    /// `[n_out, width]`
    pub index: Constant<u32>,
    /// `[n_out, width]`
    pub weight: Constant<f32>,
}

impl TapsGpu {
    fn new(device: &Device, taps: &Taps, numbers: &[u64]) -> Result<TapsGpu> {
        let index = || Ok::<_, KernelError>(taps.index.clone());
        let weight =
            || Ok::<_, KernelError>(taps.weight.iter().map(|&w| w as f32).collect::<Vec<_>>());
        Ok(TapsGpu {
            n_in: taps.n_in,
            n_out: taps.n_out,
            width: taps.width,
            index: device.constant("resize.index", numbers, index)?,
            weight: device.constant("resize.weight", numbers, weight)?,
        })
    }

    /// Appends the table to the arguments of a kernel.
    pub fn read<'a>(&'a self, args: Args<'a>) -> Args<'a> {
        args.read(self.index.view()).read(self.weight.view())
    }
}

/// Tap tables of an [`Axis`] on a device; the device keeps them.
#[derive(Debug)]
pub struct AxisGpu {
    pub(crate) forward: TapsGpu,
}

impl AxisGpu {
    /// Copies the tables to the device unless it has them.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn new(device: &Device, axis: &Axis) -> Result<AxisGpu> {
        Ok(AxisGpu { forward: forward(device, axis)? })
    }
}

fn forward(device: &Device, axis: &Axis) -> Result<TapsGpu> {
    TapsGpu::new(device, &axis.forward, &[&axis.numbers[..], &[0]].concat())
}

fn backward(device: &Device, axis: &Axis) -> Result<TapsGpu> {
    TapsGpu::new(device, &axis.backward, &[&axis.numbers[..], &[1]].concat())
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Resize, device: &Device) -> Result<()> {
        // SAFETY: the lengths were checked.
        unsafe {
            apply(s, [forward(device, &s.y)?, forward(device, &s.x)?], self.x, self.y, device)
        }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Resize, device: &Device) -> Result<()> {
        let tables = [backward(device, &s.y)?, backward(device, &s.x)?];
        // SAFETY: the lengths were checked.
        unsafe { apply(s, tables, self.dy, self.dx, device) }
    }
}

/// Applies the tables `y` and `x`.
///
/// # Safety
/// `from` and `to` have the lengths of the tables' maps.
unsafe fn apply<T: Float>(
    s: &Resize,
    [y, x]: [TapsGpu; 2],
    from: View<'_, T>,
    to: ViewMut<'_, T>,
    device: &Device,
) -> Result<()> {
    let (n, c) = (s.n, s.c);
    let size = |name, n| small(Resize::NAME, name, n);
    let vectors = if c == 1 { 1 } else { c.div_ceil(VECTOR) };
    let threads = n * y.n_out * x.n_out * vectors;
    size("pixels and vectors of channels", threads)?;
    size("rows of all maps", n * y.n_in)?;
    let sizes = Sizes {
        n: size("n", n)?,
        h: size("h", y.n_in)?,
        w: size("w", x.n_in)?,
        ho: size("ho", y.n_out)?,
        wo: size("wo", x.n_out)?,
        c: size("c", c)?,
        taps_y: size("taps", y.width)?,
        taps_x: size("taps", x.width)?,
    };
    let args = x.read(y.read(Args::new(&sizes))).read(from).write(to);
    let grid = Grid::line(threads, THREADS as usize, THREADS);
    // SAFETY: the lengths are those of the tables, which only have indices of rows and columns of the
    // input; threads beyond the last pixel do nothing.
    unsafe { device.launch(&PTX.kernel_of::<T>(s.kernel()), &grid, &args) }
}
