//! Resizing of maps; the kernel describes the tap tables.

use dressage_kernels::ops::resize::{self, Axis, Mode, Resize, Step};

use super::shape_error;
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

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

/// Nearest-neighbour resize of channels-last maps `[b, h, w, c]` to `[b, height, width, c]`.
///
/// # Errors
/// Errors of [`resize_by_factor`].
pub fn resize_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::Nearest, [Step::Size; 2])
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
    let rows = Axis::new(h, to[0], mode, step[0])?;
    let s = Resize { n, c, y: rows, x: Axis::new(w, to[1], mode, step[1])? };
    let mut y = x.empty_like(&[n, to[0], to[1], c])?;
    call!(x, &s, |M, T| resize::Forward::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    Ok(record(y, &[x], || Saved { s, to: x.edge() }))
}

struct Saved {
    s: Resize,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { s, to } = *self;
        let mut dx = dy.empty_like(&[s.n, s.y.n_in(), s.x.n_in(), s.c])?;
        call!(dy, &s, |M, T| resize::Backward::<M, T> {
            dy: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(&to, dx)
    }
}
