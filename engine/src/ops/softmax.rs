//! Softmax over the last axis.

use dressage_kernels::ops::softmax::Softmax;

use crate::dtype::kernel;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Computes `exp(x) / sum exp(x)` over the last axis. Saves its result.
///
/// # Errors
/// A type without a kernel.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let c = x.last_dim();
    let size = Softmax { n: x.len() / c.max(1), c };
    let mut y = x.empty_like(x.shape())?;
    kernel!("softmax", x, T,
        host => size.forward(x.data::<T>()?, y.data_mut()?),
        device => size.forward_gpu(device, x.view::<T>()?, y.view_mut()?),
    )?;
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
        kernel!("softmax", y, T,
            host => size.backward(y.data::<T>()?, dy.data()?, dx.data_mut()?),
            device => size.backward_gpu(device, y.view::<T>()?, dy.view()?, dx.view_mut()?),
        )?;
        grads.add(to, dx)
    }
}
