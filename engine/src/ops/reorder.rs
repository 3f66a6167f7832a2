//! Rows in another order, with padding, such as the windows of a map.

use super::gather::gather_rows_at;
use super::{expect_shape, reshape};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Rows of the first axis of `x` `[n, ..]` in the order of `order` `[r]`: `[r, ..]`.
///
/// An index of `order` that is not a row gives zeros. Each row occurs at most once, and `back`
/// `[n]` is its place in the result. Both are i32 and in the same place as `x`. The backward pass
/// is the same selection by `back`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn reorder_rows(x: &Tensor, order: &Tensor, back: &Tensor) -> Result<Tensor> {
    expect_shape("reorder_rows", "back", back, &[x.dim(0)])?;
    let y = gather_rows_at(&x.detach(), order)?;
    let shape = y.shape().to_vec();
    Ok(record(y, &[x], || Reordered { shape, back: back.clone(), to: x.edge() }))
}

struct Reordered {
    /// Shape of the result; its gradient may have come through a change of shape.
    shape: Vec<usize>,
    back: Tensor,
    to: Edge,
}

impl Backward for Reordered {
    fn name(&self) -> &'static str {
        "reorder_rows"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.add(&self.to, gather_rows_at(&reshape(&dy, &self.shape)?, &self.back)?)
    }
}
