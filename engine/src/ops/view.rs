//! Views that share memory: another shape, or a range of the first axis.

use super::join::add_pieces;
use super::shape_error;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// The same elements under another shape of the same size. Free.
///
/// # Errors
/// If the number of elements differs.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if shape.iter().product::<usize>() != x.len() {
        return Err(shape_error("reshape", "x", format!("as many elements as {shape:?}"), x));
    }
    Ok(record(x.part(0, shape), &[x], || Reshape { to: x.edge() }))
}

struct Reshape {
    to: Edge,
}

impl Backward for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.add(&self.to, dy)
    }
}

/// Rows `start..start + len` of the first axis. Free; the gradient lands in those rows of `x`'s
/// gradient.
///
/// # Errors
/// If the range leaves the axis.
pub fn rows(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    if x.shape().is_empty() || start + len > x.dim(0) {
        return Err(shape_error("rows", "x", format!("rows {start}..{}", start + len), x));
    }
    let row = x.len() / x.dim(0).max(1);
    let mut shape = x.shape().to_vec();
    shape[0] = len;
    let y = x.part(start * row, &shape);
    Ok(record(y, &[x], || Rows { offset: start * row, to: x.edge() }))
}

struct Rows {
    offset: usize,
    to: Edge,
}

impl Backward for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.accumulate(&self.to, |dx| {
            add_pieces("rows", dy.len(), std::iter::once((0, self.offset)), &dy, dx)
        })
    }
}
