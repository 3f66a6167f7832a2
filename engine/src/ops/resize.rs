//! Resizing of maps; the kernel describes the tap tables.

use dressage_kernels::ops::resize::{Axis, AxisGpu, Mode, Resize, ResizeGpu, Step};

use super::shape_error;
use crate::dtype::kernel;
use crate::{Backward, Edge, EngineError, Gradients, Result, Tensor, record};

/// Bilinear resize of channels-last maps `[b, h, w, c]` by a scale factor: `floor(h * factor)`
/// rows, sampled in steps of `1 / factor`.
///
/// # Errors
/// A tensor that is not a map, or a result without pixels; a type without a kernel.
pub fn resize_by_factor(x: &Tensor, factor: f64) -> Result<Tensor> {
    let size = |n: usize| (n as f64 * factor).floor() as usize;
    let to = [size(x.dim(1)), size(x.dim(2))];
    resample(x, to, Mode::Bilinear, [Step::Factor(factor); 2])
}

/// Bilinear resize of channels-last maps `[b, h, w, c]` to `[b, height, width, c]`.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_to(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::Bilinear, [Step::Size; 2])
}

/// Bilinear resize of planar maps `[.., h, w]`, such as mask logits, to `[.., size]`.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_maps(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let r = x.shape().len();
    if r < 2 {
        return Err(shape_error("resize", "x", "[.., h, w]", x));
    }
    let lead = x.shape()[..r - 2].iter().product();
    let planar = super::reshape(x, &[lead, x.dim(r - 2), x.dim(r - 1), 1])?;
    let y = resample(&planar, size, Mode::Bilinear, [Step::Size; 2])?;
    let mut shape = x.shape().to_vec();
    shape[r - 2..].copy_from_slice(&size);
    super::reshape(&y, &shape)
}

/// Bicubic (a = -0.75) resize of `[b, h, w, c]` by `factor` to `size`. DINOv2's position table uses
/// it, with the factor (n + 0.1)/g.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_bicubic_by_factor(x: &Tensor, factor: [f64; 2], size: [usize; 2]) -> Result<Tensor> {
    resample(x, size, Mode::Bicubic, factor.map(Step::Factor))
}

/// Bicubic (a = -0.75) resize of `[b, h, w, c]` to a size.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_bicubic(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::Bicubic, [Step::Size; 2])
}

/// Antialiased bicubic (a = -0.5) resize of `[b, h, w, c]` to a size. The position table of DINOv2
/// with registers uses it.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_bicubic_antialiased(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::BicubicAntialias, [Step::Size; 2])
}

fn resample(x: &Tensor, to: [usize; 2], mode: Mode, step: [Step; 2]) -> Result<Tensor> {
    let &[n, h, w, c] = x.shape() else {
        return Err(shape_error("resize", "x", "[b, h, w, c]", x));
    };
    let axes = [Axis::new(h, to[0], mode, step[0])?, Axis::new(w, to[1], mode, step[1])?];
    let mut y = x.empty_like(&[n, to[0], to[1], c])?;
    let tables = match x.device() {
        Some(device) => Some([AxisGpu::new(device, &axes[0])?, AxisGpu::new(device, &axes[1])?]),
        None => None,
    };
    let saved = Saved { n, c, axes, tables, to: x.edge() };
    kernel!("resize", x, T,
        host => saved.on_host().forward(x.data::<T>()?, y.data_mut()?),
        device => saved.on_device()?.forward(device, x.view::<T>()?, y.view_mut()?),
    )?;
    Ok(record(y, &[x], || saved))
}

struct Saved {
    n: usize,
    c: usize,
    axes: [Axis; 2],
    /// The same axes on the device, if the maps are on one.
    tables: Option<[AxisGpu; 2]>,
    to: Edge,
}

impl Saved {
    fn on_host(&self) -> Resize<'_> {
        let [y, x] = &self.axes;
        Resize { n: self.n, c: self.c, y, x }
    }

    fn on_device(&self) -> Result<ResizeGpu<'_>> {
        let [y, x] = self.tables.as_ref().ok_or(EngineError::OnHost { op: "resize" })?;
        Ok(ResizeGpu { n: self.n, c: self.c, y, x })
    }
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let [rows, cols] = &self.axes;
        let mut dx = dy.empty_like(&[self.n, rows.n_in(), cols.n_in(), self.c])?;
        kernel!("resize", dy, T,
            host => self.on_host().backward(dy.data::<T>()?, dx.data_mut()?),
            device => self.on_device()?.backward(device, dy.view::<T>()?, dx.view_mut()?),
        )?;
        grads.add(&self.to, dx)
    }
}
