//! Maximum over windows of channels-last maps.

use dressage_kernels::ops::max_pool::{self, MaxPool};

use super::shape_error;
use crate::call::{Place, call};
use crate::{Backward, DType, Edge, Gradients, Result, Tensor, record};

/// Largest value of each window of `k x k` pixels of maps `[b, h, w, c]`: `[b, ho, wo, c]`. The
/// gradient goes to the first such pixel.
///
/// # Errors
/// A tensor that is not a map, or windows that do not fit; a type without a kernel.
pub fn max_pool(x: &Tensor, k: usize, stride: usize, pad: usize) -> Result<Tensor> {
    let &[b, h, w, c] = x.shape() else {
        return Err(shape_error("max_pool", "x", "[b, h, w, c]", x));
    };
    let size = MaxPool { b, h, w, c, k, stride, pad };
    let (ho, wo) = size.output()?;
    let shape = [b, ho, wo, c];
    let (mut y, mut at) = (x.empty_like(&shape)?, Tensor::empty_on(x.device(), DType::U8, &shape)?);
    call!(x, &size, |M, T| max_pool::Forward::<M, T> {
        x: M::read(x)?,
        y: M::write(&mut y)?,
        at: M::write(&mut at)?,
    })?;
    Ok(record(y, &[x], || Saved { size, at, to: x.edge() }))
}

struct Saved {
    size: MaxPool,
    at: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { size, at, to } = *self;
        let mut dx = dy.empty_like(&[size.b, size.h, size.w, size.c])?;
        call!(dy, &size, |M, T| max_pool::Backward::<M, T> {
            at: M::read(&at)?,
            dy: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(&to, dx)
    }
}
