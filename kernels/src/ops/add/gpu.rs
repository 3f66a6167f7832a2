//! Launches of `add.cu`.

use super::{Add, Backward, Forward, ParameterForward};
use crate::call::{Gpu, Launch, arguments};
use crate::device::sizes::{flat, small, tile2d};
use crate::device::{Args, Device, Float, Grid, Kernel, Module, View, ViewMut};
use crate::ops::reduce;
use crate::{KernelError, Result, Write, check_count};

static PTX: Module = Module::new("add", include_str!("../../../ptx/add.ptx"));

/// Mirrors `Add` in `add.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    inner: u32,
    rows: u32,
}

/// Mirrors `Scale` in `add.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScaleSizes {
    n: u64,
    factor: f32,
    unused: u32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Add, device: &Device) -> Result<()> {
        let (grid, sizes) = s.tiles()?;
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&kernel::<T, T>()?, &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for ParameterForward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Add, device: &Device) -> Result<()> {
        let (grid, sizes) = s.tiles()?;
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&kernel::<T, f32>()?, &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Add, device: &Device) -> Result<()> {
        let Backward { dy, write, mut db } = self;
        if write == Write::Over {
            device.zero(db.reborrow())?;
        }
        reduce::column_sums_gpu(device, dy, s.n, db)
    }
}

impl Add {
    /// `y += b` on a device, with `b` repeated over the leading axis; `b` is an activation of the
    /// type of `y` or a parameter in f32.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; `b` in bf16 for `y` in f32; a failure of the
    /// device.
    pub fn in_place_gpu<T: Float, B: Float>(
        &self,
        device: &Device,
        y: ViewMut<'_, T>,
        b: View<'_, B>,
    ) -> Result<()> {
        check_count("add", "y", y.len(), self.n * self.inner)?;
        check_count("add", "b", b.len(), self.inner)?;
        let (grid, sizes) = self.tiles()?;
        let args = Args::new(&sizes).alias(&y).read(b).write(y);
        // SAFETY: as in the forward pass; a thread reads its vector before it writes it.
        unsafe { device.launch(&kernel::<T, B>()?, &grid, &args) }
    }

    fn tiles(&self) -> Result<(Grid, Sizes)> {
        // With one row, a 2-D tile would use only one warp of each block.
        let (grid, rows) = match self.n {
            1 => (flat(self.inner), 1),
            n => tile2d(n, self.inner),
        };
        let sizes = Sizes {
            n: small("add", "n", self.n)?,
            inner: small("add", "inner", self.inner)?,
            rows: small("add", "rows", rows)?,
        };
        Ok((grid, sizes))
    }
}

/// Kernel that adds a `b` of type `B` to an `a` of type `T`.
fn kernel<T: Float, B: Float>() -> Result<Kernel> {
    match (B::SUFFIX, T::SUFFIX) {
        ("_f32", _) => Ok(PTX.kernel_of::<T>("add_f32")),
        ("_bf16", "_bf16") => Ok(PTX.kernel_of::<T>("add_bf16")),
        _ => {
            let what = "cannot add b in bf16 to a in f32".into();
            Err(KernelError::Size { op: "add", what })
        }
    }
}

/// Writes `y = factor * x` in another storage type. It is computed in f32 and rounded once.
///
/// # Errors
/// Views of different lengths; a failure of the device.
pub(crate) fn scale_gpu<X: Float, Y: Float>(
    device: &Device,
    factor: f32,
    x: View<'_, X>,
    y: ViewMut<'_, Y>,
) -> Result<()> {
    check_count("scale", "y", y.len(), x.len())?;
    let name = if X::SUFFIX == f32::SUFFIX { "scale_f32" } else { "scale_bf16" };
    let args = Args::new(&ScaleSizes { n: x.len() as u64, factor, unused: 0 }).read(x).write(y);
    // SAFETY: both hold n elements; threads beyond the end do nothing.
    unsafe { device.launch(&PTX.kernel_of::<Y>(name), &flat(x.len()), &args) }
}

/// Copies to another storage type, rounding to nearest, ties to even.
///
/// # Errors
/// Views of different lengths; a failure of the device.
pub fn cast_gpu<X: Float, Y: Float>(
    device: &Device,
    x: View<'_, X>,
    y: ViewMut<'_, Y>,
) -> Result<()> {
    scale_gpu(device, 1.0, x, y)
}
