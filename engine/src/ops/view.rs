//! Views that share memory: another shape, or a range of the first axis. The gradient of a view is
//! added to that of the value, so a view needs no graph node.

use super::shape_error;
use crate::graph::record_view;
use crate::{Result, Tensor};

/// The same elements with another shape of the same size. Copies nothing.
///
/// # Errors
/// If the number of elements differs.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if shape.iter().product::<usize>() != x.len() {
        return Err(shape_error("reshape", "x", format!("as many elements as {shape:?}"), x));
    }
    Ok(record_view(x.part(0, shape), x, 0))
}

/// Rows `start..start + len` of the first axis. Copies nothing. The gradient is added to those rows
/// of `x`'s gradient.
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
