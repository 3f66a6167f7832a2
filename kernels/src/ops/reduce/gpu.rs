//! Launches of `reduce.cu`.

use super::PIECE;
use crate::device::sizes::{RowSplit, flat, small};
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

static PTX: Module = Module::new("reduce", include_str!("../../../ptx/reduce.ptx"));

/// Mirrors `Columns` in `reduce.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Columns {
    n: u32,
    c: u32,
    rows: u32,
}

/// Mirrors `Finish` in `reduce.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Finish {
    splits: u32,
    c: u32,
}

/// Mirrors `Whole` in `reduce.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Whole {
    n: u64,
}

/// Second pass of a sum over rows: adds the `splits` partial sums `[splits, c]` to `out` `[c]`.
pub(crate) fn column_finish(
    device: &Device,
    partial: View<'_, f32>,
    splits: usize,
    out: ViewMut<'_, f32>,
) -> Result<()> {
    let c = out.len();
    check_count("column_sums", "partial", partial.len(), splits * c)?;
    let sizes = Finish {
        splits: small("column_sums", "splits", splits)?,
        c: small("column_sums", "c", c)?,
    };
    let args = Args::new(&sizes).read(partial).write(out);
    // SAFETY: the lengths were checked; a thread beyond column c does nothing.
    unsafe { device.launch(&PTX.kernel("column_finish"), &Grid::line(c, 32, 256), &args) }
}

/// Adds the sum over the rows of `x` `[n, c]` to `out` `[c]`: [`super::column_sums`] on a device.
///
/// # Errors
/// `x` does not have `n` rows `[c]`; a failure of the device.
pub fn column_sums_gpu<T: Float>(
    device: &Device,
    x: View<'_, T>,
    n: usize,
    out: ViewMut<'_, f32>,
) -> Result<()> {
    let c = out.len();
    check_count("column_sums", "x", x.len(), n * c)?;
    if x.is_empty() {
        return Ok(());
    }
    let splits = RowSplit::of(n);
    let sizes = Columns {
        n: small("column_sums", "n", n)?,
        c: small("column_sums", "c", c)?,
        rows: small("column_sums", "rows", splits.rows)?,
    };
    let mut partial = device.alloc("column_sums.partial", splits.count * c)?;
    let args = Args::new(&sizes).read(x).write(partial.view_mut());
    // SAFETY: x is [n, c] and partial [splits, c]; threads beyond either do nothing.
    unsafe { device.launch(&PTX.kernel_of::<T>("column_sums"), &splits.grid(c), &args)? };
    column_finish(device, partial.view(), splits.count, out)
}

/// Writes the sum of all elements to `out` `[1]`: [`super::sum`] on a device.
///
/// # Errors
/// `out` has another length; a failure of the device.
pub fn sum_gpu<T: Float>(device: &Device, x: View<'_, T>, out: ViewMut<'_, f32>) -> Result<()> {
    check_count("sum", "out", out.len(), 1)?;
    let blocks = x.len().div_ceil(PIECE);
    let mut partial = device.alloc::<f32>("sum.partial", blocks)?;
    pass(device, "sum_pieces", x, &mut partial)?;
    let args = Args::new(&Whole { n: blocks as u64 }).read(partial.view()).write(out);
    // SAFETY: the kernel reads `blocks` partial sums and writes one element.
    unsafe { device.launch(&PTX.kernel("sum_finish"), &Grid::line(1, 1, 256), &args) }
}

/// Index of the first infinite or NaN element: [`super::all_finite`] on a device. It waits for the
/// device.
///
/// # Errors
/// A failure of the device.
pub(crate) fn all_finite_gpu<T: Float>(device: &Device, x: View<'_, T>) -> Result<Option<usize>> {
    let mut lowest = device.alloc::<u64>("all_finite.lowest", 1)?;
    lowest_damaged(device, x, lowest.view_mut())?;
    let found = device.download(lowest.view())?[0];
    Ok((found != u64::MAX).then_some(found as usize))
}

/// Writes the index of the first infinite or NaN element to `lowest` `[1]`, all bits set for none.
/// It does not wait.
pub(super) fn lowest_damaged<T: Float>(
    device: &Device,
    x: View<'_, T>,
    lowest: ViewMut<'_, u64>,
) -> Result<()> {
    check_count("all_finite", "lowest", lowest.len(), 1)?;
    let blocks = x.len().div_ceil(PIECE);
    let mut partial = device.alloc::<u64>("all_finite.partial", blocks)?;
    pass(device, "damaged_pieces", x, &mut partial)?;
    let args = Args::new(&Whole { n: blocks as u64 }).read(partial.view()).write(lowest);
    // SAFETY: the kernel reads `blocks` partial results and writes one element.
    unsafe { device.launch(&PTX.kernel("damaged_finish"), &Grid::line(1, 1, 256), &args) }
}

/// Launches the first pass over pieces of [`PIECE`] elements.
fn pass<T: Float, P: crate::device::Element>(
    device: &Device,
    kernel: &'static str,
    x: View<'_, T>,
    partial: &mut Buffer<P>,
) -> Result<()> {
    let grid = Grid { blocks: [partial.len(), 1, 1], ..flat(1) };
    let args = Args::new(&Whole { n: x.len() as u64 }).read(x).write(partial.view_mut());
    // SAFETY: block i reads piece i of x and writes element i of partial.
    unsafe { device.launch(&PTX.kernel_of::<T>(kernel), &grid, &args) }
}
