//! Tap tables on a device and launches of `resize.cu`.

use super::{Axis, Taps};
use crate::device::sizes::small;
use crate::device::{Args, Constant, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

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

/// Tap tables of an [`Axis`] on a device, in both directions; the device keeps them.
#[derive(Debug)]
pub struct AxisGpu {
    pub(crate) forward: TapsGpu,
    pub(crate) backward: TapsGpu,
}

impl AxisGpu {
    /// Copies the tables to the device unless it has them.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn new(device: &Device, axis: &Axis) -> Result<AxisGpu> {
        let numbers = |way: u64| [&axis.numbers[..], &[way]].concat();
        let forward = TapsGpu::new(device, &axis.forward, &numbers(0))?;
        let backward = TapsGpu::new(device, &axis.backward, &numbers(1))?;
        Ok(AxisGpu { forward, backward })
    }
}

/// [`super::Resize`] on a device.
#[derive(Debug, Clone, Copy)]
pub struct ResizeGpu<'a> {
    /// Maps.
    pub n: usize,
    /// Channels, the fastest axis; 1 for planar maps `[n, h, w]`.
    pub c: usize,
    /// Taps of the rows: `h` to `ho`.
    pub y: &'a AxisGpu,
    /// Taps of the columns: `w` to `wo`.
    pub x: &'a AxisGpu,
}

impl ResizeGpu<'_> {
    /// [`super::Resize::forward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        apply(device, (self.n, self.c), &self.y.forward, &self.x.forward, ("x", x), ("y", y))
    }

    /// [`super::Resize::backward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn backward<T: Float>(
        &self,
        device: &Device,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        apply(device, (self.n, self.c), &self.y.backward, &self.x.backward, ("dy", dy), ("dx", dx))
    }
}

fn apply<T: Float>(
    device: &Device,
    (n, c): (usize, usize),
    y: &TapsGpu,
    x: &TapsGpu,
    (from_name, from): (&'static str, View<'_, T>),
    (to_name, to): (&'static str, ViewMut<'_, T>),
) -> Result<()> {
    check_count("resize", from_name, from.len(), n * y.n_in * x.n_in * c)?;
    check_count("resize", to_name, to.len(), n * y.n_out * x.n_out * c)?;
    let size = |name, n| small("resize", name, n);
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
    let name = if c == 1 { "resize_planar" } else { "resize" };
    let grid = Grid::line(threads, THREADS as usize, THREADS);
    // SAFETY: the lengths were checked; the tables only have indices of rows and columns of the
    // input; threads beyond the last pixel do nothing.
    unsafe { device.launch(&PTX.kernel_of::<T>(name), &grid, &args) }
}
