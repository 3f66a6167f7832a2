//! Views that share memory: another shape, or a range of the first axis. Their gradients are those
//! of the value itself or a part of them, so they leave nothing in the graph.

use super::shape_error;
use crate::graph::record_view;
use crate::{Result, Tensor};

/// The same elements under another shape of the same size. Free.
///
/// # Errors
/// If the number of elements differs.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if shape.iter().product::<usize>() != x.len() {
        return Err(shape_error("reshape", "x", format!("as many elements as {shape:?}"), x));
    }
    Ok(record_view(x.part(0, shape), x, 0))
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
    Ok(record_view(x.part(start * row, &shape), x, start * row))
}
