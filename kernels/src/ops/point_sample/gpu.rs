//! Launches of `point_sample.cu`.

use super::{Backward, Forward, LabelSample, PointSample, check_map};
use crate::call::{Gpu, Launch, Operation, arguments};
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
    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        size("points of all maps", self.r * self.p)?;
        Ok(Sizes {
            r: size("r", self.r)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            p: size("p", self.p)?,
            maps: size("maps", self.of_set())?.max(1),
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PointSample, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        let kernel = PTX.kernel_of::<T>("point_sample_fwd");
        // SAFETY: the lengths were checked, taps off the map are not read; threads beyond the last
        // point do nothing.
        unsafe { device.launch(&kernel, &grid(s.r * s.p), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PointSample, device: &Device) -> Result<()> {
        let Backward { points, dvalues, dmaps } = self;
        let (sizes, pixels) = (s.sizes()?, s.r * s.h * s.w);
        if s.p >= MOST_POINTS {
            let what = format!("the gradient of {} points a map is not summed exactly", s.p);
            return Err(KernelError::Size { op: PointSample::NAME, what });
        }
        let mut scale = device.alloc::<f32>("point_sample.scale", s.r)?;
        let mut sums = device.zeros::<u64>("point_sample.sums", pixels)?;
        let args = Args::new(&sizes).read(dvalues).write(scale.view_mut());
        // SAFETY: block i reads row i of dvalues.
        unsafe {
            let grid = Grid::line(s.r, 1, THREADS as u32);
            device.launch(&PTX.kernel("point_sample_scale"), &grid, &args)?;
        }
        let args = Args::new(&sizes).read(points).read(dvalues).read(scale.view());
        let args = args.write(sums.view_mut());
        // SAFETY: taps off the map are not written; threads beyond the last point do nothing.
        unsafe {
            let grid = grid(s.r * s.p);
            device.launch(&PTX.kernel("point_sample_scatter"), &grid, &args)?;
        }
        let args = Args::new(&sizes).read(scale.view()).read(sums.view()).write(dmaps);
        let kernel = PTX.kernel_of::<T>("point_sample_gather");
        // SAFETY: sums and dmaps hold all pixels; threads beyond the end do nothing.
        unsafe { device.launch(&kernel, &grid(pixels), &args) }
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
