//! Selection of rows by an index tensor.

use dressage_kernels::ops::gather_rows::{self as op, GatherRows};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Rows of the first axis of `x` selected by `indices` `[r]` (i32, in the same place as `x`). An
/// index that is not a row gives zeros, as padding. Unlike [`super::gather_rows`] its work does not
/// depend on the indices, and on a device the host never reads them.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn gather_rows_at(x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    if x.shape().is_empty() {
        return Err(shape_error("gather_rows", "x", "at least one axis", x));
    }
    let r = indices.len();
    expect_shape("gather_rows", "indices", indices, &[r])?;
    let c = x.shape()[1..].iter().product();
    let size = GatherRows { n: x.dim(0), r, c };
    let mut shape = x.shape().to_vec();
    shape[0] = r;
    let mut y = x.empty_like(&shape)?;
    call!(x, &size, |M, T| op::Forward::<M, T> {
        x: M::read(x)?,
        indices: M::read(indices)?,
        y: M::write(&mut y)?,
    })?;
    Ok(record(y, &[x], || Saved {
        size,
        shape: x.shape().to_vec(),
        indices: indices.clone(),
        to: x.edge(),
    }))
}

struct Saved {
    size: GatherRows,
    shape: Vec<usize>,
    indices: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { size, shape, indices, to } = &*self;
        let mut dx = dy.empty_like(shape)?;
        call!(dy, size, |M, T| op::Backward::<M, T> {
            indices: M::read(indices)?,
            dy: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(to, dx)
    }
}
