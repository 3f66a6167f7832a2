//! Launches of `point_sample.cu`.

use super::{LabelSample, PointSample, check_map};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

static PTX: Module = Module::new("point_sample", include_str!("../../../ptx/point_sample.ptx"));

/// Threads per block.
const THREADS: usize = 256;

/// Points per map below which the integers of the backward pass cannot overflow.
const MOST_POINTS: usize = 1 << 20;

/// Mirrors `PointSample` in `point_sample.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    r: u32,
    h: u32,
    w: u32,
    p: u32,
    maps: u32,
}

/// Mirrors `LabelSample` in `point_sample.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LabelSizes {
    r: u32,
    h: u32,
    w: u32,
    p: u32,
    images: u32,
    shared: u32,
}

fn grid(items: usize) -> Grid {
    Grid::line(items, THREADS, THREADS as u32)
}

impl PointSample {
    /// [`PointSample::forward`] on a device; points and values are always f32. Shared points may
    /// have several sets `[sets, p, 2]`, each read by the same number of consecutive maps: those of
    /// an image.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a map without pixels; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        maps: View<'_, T>,
        points: View<'_, f32>,
        values: ViewMut<'_, f32>,
    ) -> Result<()> {
        let sizes = self.sizes(points.len())?;
        check_count("point_sample", "maps", maps.len(), self.r * self.h * self.w)?;
        check_count("point_sample", "values", values.len(), self.r * self.p)?;
        let args = Args::new(&sizes).read(maps).read(points).write(values);
        let kernel = PTX.kernel_of::<T>("point_sample_fwd");
        // SAFETY: the lengths were checked, taps off the map are not read; threads beyond the last
        // point do nothing.
        unsafe { device.launch(&kernel, &grid(self.r * self.p), &args) }
    }

    /// [`PointSample::backward`] on a device: writes `dmaps`. Three launches, and 8 bytes of
    /// scratch memory per pixel.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a map without pixels; 2^20 points per map or
    /// more; a failure of the device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        points: View<'_, f32>,
        dvalues: View<'_, f32>,
        dmaps: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.sizes(points.len())?;
        let pixels = self.r * self.h * self.w;
        check_count("point_sample", "dvalues", dvalues.len(), self.r * self.p)?;
        check_count("point_sample", "dmaps", dmaps.len(), pixels)?;
        if self.p >= MOST_POINTS {
            let what = format!("the gradient of {} points a map is not summed exactly", self.p);
            return Err(KernelError::Size { op: "point_sample", what });
        }
        let mut scale = device.alloc::<f32>("point_sample.scale", self.r)?;
        let mut sums = device.zeros::<u64>("point_sample.sums", pixels)?;
        let args = Args::new(&sizes).read(dvalues).write(scale.view_mut());
        // SAFETY: block i reads row i of dvalues.
        unsafe {
            let grid = Grid::line(self.r, 1, THREADS as u32);
            device.launch(&PTX.kernel("point_sample_scale"), &grid, &args)?;
        }
        let args = Args::new(&sizes).read(points).read(dvalues).read(scale.view());
        let args = args.write(sums.view_mut());
        // SAFETY: taps off the map are not written; threads beyond the last point do nothing.
        unsafe {
            let grid = grid(self.r * self.p);
            device.launch(&PTX.kernel("point_sample_scatter"), &grid, &args)?;
        }
        let args = Args::new(&sizes).read(scale.view()).read(sums.view()).write(dmaps);
        let kernel = PTX.kernel_of::<T>("point_sample_gather");
        // SAFETY: sums and dmaps hold all pixels; threads beyond the end do nothing.
        unsafe { device.launch(&kernel, &grid(pixels), &args) }
    }

    fn sizes(&self, points: usize) -> Result<Sizes> {
        check_map("point_sample", self.h, self.w)?;
        let sets = match self.shared {
            true => points / (2 * self.p).max(1),
            false => self.r,
        };
        let divides = sets > 0 && self.r.is_multiple_of(sets);
        let sets = if self.shared && !divides { 1 } else { sets };
        check_count("point_sample", "points", points, sets * self.p * 2)?;
        let size = |name, n| small("point_sample", name, n);
        size("points of all maps", self.r * self.p)?;
        Ok(Sizes {
            r: size("r", self.r)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            p: size("p", self.p)?,
            maps: size("maps", self.r / sets.max(1))?.max(1),
        })
    }
}

/// Rows of label masks on a device.
#[derive(Debug, Clone, Copy)]
pub struct LabelRows<'a> {
    /// Label maps `[b, h, w]`.
    pub labels: View<'a, u8>,
    /// Image of each row, `[r]`; a row without an image (-1) reads 0.
    pub images: View<'a, i32>,
    /// Class of each row, `[r]`.
    pub classes: View<'a, i32>,
    /// Points: `[r, p, 2]` or, if shared by the rows of an image, `[b, p, 2]`.
    pub points: View<'a, f32>,
    /// Whether the rows of an image share their points.
    pub shared: bool,
}

impl LabelSample {
    /// [`LabelSample::each`] and [`LabelSample::shared`] on a device: writes `values` `[r, p]`.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a map without pixels; a failure of the device.
    pub fn rows_gpu(
        &self,
        device: &Device,
        rows: LabelRows<'_>,
        values: ViewMut<'_, f32>,
    ) -> Result<()> {
        check_map("sample_labels", self.h, self.w)?;
        let (r, map) = (rows.images.len(), self.h * self.w);
        let b = rows.labels.len() / map;
        let points = if rows.shared { b } else { r };
        for (name, found, expected) in [
            ("labels", rows.labels.len(), b * map),
            ("classes", rows.classes.len(), r),
            ("points", rows.points.len(), points * self.p * 2),
            ("values", values.len(), r * self.p),
        ] {
            check_count("sample_labels", name, found, expected)?;
        }
        let size = |name, n| small("sample_labels", name, n);
        size("points of all rows", r * self.p)?;
        let sizes = LabelSizes {
            r: size("r", r)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            p: size("p", self.p)?,
            images: size("images", b)?,
            shared: u32::from(rows.shared),
        };
        let args = Args::new(&sizes).read(rows.labels).read(rows.images).read(rows.classes);
        let args = args.read(rows.points).write(values);
        // SAFETY: the lengths were checked; rows without an image and taps off the map are not
        // read.
        unsafe { device.launch(&PTX.kernel("label_sample"), &grid(r * self.p), &args) }
    }
}
