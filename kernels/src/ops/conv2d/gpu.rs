//! Convolutions on a device: products and launches of `conv2d.cu`.

use super::{Backward, Conv2d, Forward, ParameterGradients};
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::add::Add;
use crate::ops::linear;
use crate::ops::matmul::MatMul;
use crate::ops::reduce;
use crate::{Result, Write};

static PTX: Module = Module::new("conv2d", include_str!("../../../ptx/conv2d.ptx"));

/// Threads per block and elements per vector, as in `vectors.cuh`.
const THREADS: u32 = 256;
const VECTOR: usize = 8;

/// Approximate elements per unfolded block: 64 MB in bf16, enough rows to fill a device with any
/// product here.
const BLOCK: usize = 1 << 25;

/// Mirrors `Unfold` in `conv2d.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Unfold {
    b: u32,
    h: u32,
    w: u32,
    c: u32,
    ph: u32,
    pw: u32,
    kh: u32,
    kw: u32,
    stride: u32,
    pad: u32,
    dilation: u32,
    backward: u32,
    first: u32,
    count: u32,
}

/// Mirrors `Weight` in `conv2d.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Weight {
    co: u32,
    ci: u32,
    taps: u32,
}

impl Unfold {
    /// Elements per row.
    fn width(&self) -> usize {
        self.kh as usize * self.kw as usize * self.c as usize
    }

    fn places(&self) -> usize {
        self.b as usize * self.ph as usize * self.pw as usize
    }

    /// Calls `f` with the first place, the number of places and their unfolded rows, block by
    /// block. Blocks depend only on the sizes, so sums over them have a fixed order.
    fn blocks<T: Float>(
        mut self,
        device: &Device,
        map: View<'_, T>,
        mut f: impl FnMut(usize, usize, View<'_, T>) -> Result<()>,
    ) -> Result<()> {
        let (width, places) = (self.width(), self.places());
        let most = (BLOCK / width.max(1)).max(1).min(places);
        let mut rows = device.alloc::<T>("conv2d.rows", most * width)?;
        for first in (0..places).step_by(most.max(1)) {
            let count = most.min(places - first);
            (self.first, self.count) = (first as u32, count as u32);
            let threads = count * width / self.c as usize * (self.c as usize).div_ceil(VECTOR);
            let args = Args::new(&self).read(map).write(rows.view_mut());
            let grid = Grid::line(threads, THREADS as usize, THREADS);
            // SAFETY: the map is [b, h, w, c], rows hold `count` rows; threads beyond the end do
            // nothing.
            unsafe { device.launch(&PTX.kernel_of::<T>("conv2d_unfold"), &grid, &args)? };
            f(first, count, rows.view().slice(0..count * width))?;
        }
        Ok(())
    }
}

/// The weight is reordered, then each block of pixels is unfolded and multiplied, then the bias is
/// added.
impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Conv2d, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, mut y } = self;
        if let Some(linear) = s.pointwise() {
            return linear::Forward::<Gpu, _> { x, weight, bias, y }.launch(device, &linear);
        }
        if y.is_empty() {
            return Ok(());
        }
        let weight = s.reordered(device, "conv2d_weight", weight)?;
        let (unfold, co) = (s.unfold(false)?, s.co);
        let width = unfold.width();
        unfold.blocks(device, x, |first, count, rows| {
            let y = y.reborrow().slice(first * co..(first + count) * co);
            let product = MatMul::new(count, co, width).trans_b();
            device.matmul(&product, 1.0, rows, weight.view(), Write::Over, y)
        })?;
        match bias {
            Some(bias) => Add { n: y.len() / co, inner: co }.in_place_gpu(device, y, bias),
            None => Ok(()),
        }
    }
}

/// For each pixel of `x`, the pixels of `y` that use it are multiplied by the weight.
impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Conv2d, device: &Device) -> Result<()> {
        let Backward { weight, dy, mut dx } = self;
        if let Some(linear) = s.pointwise() {
            return linear::Backward::<Gpu, _> { weight, dy, dx }.launch(device, &linear);
        }
        let weight = s.reordered(device, "conv2d_weight_back", weight)?;
        let (unfold, ci) = (s.unfold(true)?, s.ci);
        let width = unfold.width();
        unfold.blocks(device, dy, |first, count, rows| {
            let dx = dx.reborrow().slice(first * ci..(first + count) * ci);
            let product = MatMul::new(count, ci, width).trans_b();
            device.matmul(&product, 1.0, rows, weight.view(), Write::Over, dx)
        })
    }
}

impl<'a, T: Float> Launch<'a> for ParameterGradients<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Conv2d, device: &Device) -> Result<()> {
        let ParameterGradients { x, dy, dweight, dbias } = self;
        if let Some(linear) = s.pointwise() {
            let call = linear::ParameterGradients::<Gpu, _> { x, dy, dweight, dbias };
            return call.launch(device, &linear);
        }
        if let (Some(x), Some(dweight)) = (x, dweight) {
            s.dweight(device, x, dy, dweight)?;
        }
        match dbias {
            Some(dbias) => reduce::column_sums_gpu(device, dy, dy.len() / s.co.max(1), dbias),
            None => Ok(()),
        }
    }
}

impl Conv2d {
    fn dweight<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        dy: View<'_, T>,
        dweight: ViewMut<'_, f32>,
    ) -> Result<()> {
        let mut sum = device.zeros::<f32>("conv2d.dweight", dweight.len())?;
        let (unfold, co) = (self.unfold(false)?, self.co);
        let width = unfold.width();
        unfold.blocks(device, x, |first, count, rows| {
            let dy = dy.slice(first * co..(first + count) * co);
            let product = MatMul::new(co, width, count).trans_a();
            device.matmul(&product, 1.0, dy, rows, Write::Add, sum.view_mut())
        })?;
        let (sizes, grid) = self.by_weight()?;
        let args = Args::new(&sizes).read(sum.view()).write(dweight);
        // SAFETY: both hold the elements of the weight; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel("conv2d_dweight"), &grid, &args) }
    }

    fn reordered<T: Float>(
        &self,
        device: &Device,
        kernel: &'static str,
        weight: View<'_, T>,
    ) -> Result<Buffer<T>> {
        let mut out = device.alloc("conv2d.weight", weight.len())?;
        let (sizes, grid) = self.by_weight()?;
        let args = Args::new(&sizes).read(weight).write(out.view_mut());
        // SAFETY: both hold the elements of the weight; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(kernel), &grid, &args)? };
        Ok(out)
    }

    fn by_weight(&self) -> Result<(Weight, Grid)> {
        let taps = self.kh * self.kw;
        let all = self.co * self.ci * taps;
        small(Self::NAME, "elements of the weight", all)?;
        let sizes = Weight {
            co: small(Self::NAME, "co", self.co)?,
            ci: small(Self::NAME, "ci", self.ci)?,
            taps: small(Self::NAME, "taps", taps)?,
        };
        Ok((sizes, Grid::line(all, THREADS as usize, THREADS)))
    }

    fn unfold(&self, backward: bool) -> Result<Unfold> {
        let (ho, wo) = self.output()?;
        let size = |name, n| small(Self::NAME, name, n);
        let (x, y) = ((self.h, self.w, self.ci), (ho, wo, self.co));
        let ((h, w, c), (ph, pw, _)) = if backward { (y, x) } else { (x, y) };
        size("places and taps", self.b * ph * pw * self.kh * self.kw)?;
        Ok(Unfold {
            b: size("b", self.b)?,
            h: size("h", h)?,
            w: size("w", w)?,
            c: size("c", c)?,
            ph: size("ph", ph)?,
            pw: size("pw", pw)?,
            kh: size("kh", self.kh)?,
            kw: size("kw", self.kw)?,
            stride: size("stride", self.stride)?,
            pad: size("pad", self.pad)?,
            dilation: size("dilation", self.dilation)?,
            backward: u32::from(backward),
            first: 0,
            count: 0,
        })
    }
}
