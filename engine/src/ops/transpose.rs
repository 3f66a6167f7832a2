//! Exchange of the last two axes.

use dressage_kernels::ops::transpose::{Forward, Transpose};

use super::shape_error;
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// `x` `[.., n, m]` with its last two axes exchanged: `[.., m, n]`.
///
/// # Errors
/// Fewer than two axes; a type without a kernel.
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    let [outer @ .., n, m] = x.shape() else {
        return Err(shape_error("transpose", "x", "[.., n, m]", x));
    };
    let size = Transpose { b: outer.iter().product(), n: *n, m: *m };
    let y = transposed(&size, x, &[outer, &[*m, *n]].concat())?;
    Ok(record(y, &[x], || Saved { size, shape: x.shape().to_vec(), to: x.edge() }))
}

fn transposed(size: &Transpose, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let mut y = x.empty_like(shape)?;
    call!(x, size, |M, T| Forward::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    Ok(y)
}

struct Saved {
    size: Transpose,
    shape: Vec<usize>,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        grads.add(&self.to, transposed(&self.size.inverse(), &dy, &self.shape)?)
    }
}
