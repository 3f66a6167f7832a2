//! Softmax over the last axis.

use dressage_kernels::ops::softmax::{self, Forward, Softmax};

use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Computes `exp(x) / sum exp(x)` over the last axis. Saves its result.
///
/// # Errors
/// A type without a kernel.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let c = x.last_dim();
    let size = Softmax { n: x.len() / c.max(1), c };
    let mut y = x.empty_like(x.shape())?;
    call!(x, &size, |M, T| Forward::<M, T> { x: M::read(x)?, y: M::write(&mut y)? })?;
    let saved = y.detach();
    Ok(record(y, &[x], || Saved { size, y: saved, to: x.edge() }))
}

struct Saved {
    size: Softmax,
    y: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { size, y, to } = &*self;
        let mut dx = y.empty_like(y.shape())?;
        call!(y, size, |M, T| softmax::Backward::<M, T> {
            y: M::read(y)?,
            dy: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(to, dx)
    }
}
