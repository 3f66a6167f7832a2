//! Rows padded or cut to another width, for device kernels that support only certain widths.

use dressage_kernels::ops::row_width::{Resize, RowWidth};

use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Resizes the rows of `x` `[.., c]` to `[.., to]`: appends zeros or cuts off the end.
///
/// # Errors
/// A type without a kernel.
pub fn row_width(x: &Tensor, to: usize) -> Result<Tensor> {
    let from = x.last_dim();
    refit(x, RowWidth::new(x.len() / from.max(1), from, to))
}

/// [`row_width`] that also multiplies the first `scaled` of every `period` rows by `factor`.
pub(super) fn row_width_scaled(
    x: &Tensor,
    to: usize,
    [scaled, period]: [usize; 2],
    factor: f64,
) -> Result<Tensor> {
    let from = x.last_dim();
    let size = RowWidth::new(x.len() / from.max(1), from, to);
    refit(x, size.scaled(scaled, period, factor as f32))
}

fn refit(x: &Tensor, size: RowWidth) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    match shape.last_mut() {
        Some(last) => *last = size.to,
        None => shape.push(size.to),
    }
    let y = apply(x, size, &shape)?;
    Ok(record(y, &[x], || Saved { size, shape: x.shape().to_vec(), to: x.edge() }))
}

fn apply(x: &Tensor, size: RowWidth, shape: &[usize]) -> Result<Tensor> {
    let mut y = x.empty_like(shape)?;
    call!(x, &size, |M, T| Resize::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    Ok(y)
}

struct Saved {
    size: RowWidth,
    /// Shape of x.
    shape: Vec<usize>,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "row_width"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.add(&self.to, apply(&dy, self.size.backward(), &self.shape)?)
    }
}
