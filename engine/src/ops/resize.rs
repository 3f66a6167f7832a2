//! Resampling of maps; see the kernel for the tap tables.

use dressage_kernels::resize::{Axis, Mode, Resize, Step};

use super::shape_error;
use crate::{Backward, Edge, Gradients, Result, Tensor, floats, record};

/// Bilinear resize of channels-last maps `[b, h, w, c]` by a scale factor: `floor(h * factor)`
/// rows, sampled in steps of `1 / factor`.
///
/// # Errors
/// A tensor that is no map, or a result without pixels; a type other than f32 and f64.
pub fn resize_by_factor(x: &Tensor, factor: f64) -> Result<Tensor> {
    let size = |n: usize| (n as f64 * factor).floor() as usize;
    let to = [size(x.dim(1)), size(x.dim(2))];
    resample(x, to, Mode::Bilinear, [Step::Factor(factor); 2])
}

/// Bilinear resize of channels-last maps `[b, h, w, c]` to `[b, height, width, c]`.
///
/// # Errors
/// As [`resize_by_factor`].
pub fn resize_to(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::Bilinear, [Step::Size; 2])
}

/// Bilinear resize of planar maps `[.., h, w]`, such as mask logits, to `[.., size]`.
///
/// # Errors
/// As [`resize_by_factor`].
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

/// Bicubic (a = -0.75) resize of `[b, h, w, c]` with the scale factors given beside the size they
/// lead to: DINOv2's position table, whose factor is (n + 0.1)/g.
///
/// # Errors
/// As [`resize_by_factor`].
pub fn resize_bicubic_by_factor(x: &Tensor, factor: [f64; 2], size: [usize; 2]) -> Result<Tensor> {
    resample(x, size, Mode::Bicubic, factor.map(Step::Factor))
}

/// Antialiased bicubic (a = -0.5) resize of `[b, h, w, c]` to a size: the position table of DINOv2
/// with registers.
///
/// # Errors
/// As [`resize_by_factor`].
pub fn resize_bicubic_antialiased(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resample(x, [height, width], Mode::BicubicAntialias, [Step::Size; 2])
}

fn resample(x: &Tensor, to: [usize; 2], mode: Mode, step: [Step; 2]) -> Result<Tensor> {
    let &[n, h, w, c] = x.shape() else {
        return Err(shape_error("resize", "x", "[b, h, w, c]", x));
    };
    let axes = [Axis::new(h, to[0], mode, step[0])?, Axis::new(w, to[1], mode, step[1])?];
    floats!("resize", x, T => {
        let mut y = Tensor::empty::<T>(&[n, to[0], to[1], c]);
        let size = Resize { n, c, y: &axes[0], x: &axes[1] };
        size.forward(x.data::<T>()?, y.data_mut()?)?;
        Ok(record(y, &[x], || Saved { n, c, axes, to: x.edge() }))
    })
}

struct Saved {
    n: usize,
    c: usize,
    axes: [Axis; 2],
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let [rows, cols] = &self.axes;
        let size = Resize { n: self.n, c: self.c, y: rows, x: cols };
        floats!("resize", dy, T => {
            let mut dx = Tensor::empty::<T>(&[self.n, rows.n_in(), cols.n_in(), self.c]);
            size.backward(dy.data::<T>()?, dx.data_mut()?)?;
            grads.add(&self.to, dx)
        })
    }
}
