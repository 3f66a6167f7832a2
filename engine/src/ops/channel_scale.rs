//! A factor for each channel of each image.

use dressage_kernels::ops::channel_scale::{self, ChannelScale};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, forbid_gradient, record};

/// Maps `[b, .., c]` with each channel of each image times its factor `[b, c]`, a constant.
///
/// # Errors
/// Shapes that do not fit; factors that need a gradient; a type without a kernel.
pub fn channel_scale(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    if x.shape().len() < 2 {
        return Err(shape_error("channel_scale", "x", "[b, .., c]", x));
    }
    let (b, c) = (x.dim(0), x.last_dim());
    expect_shape("channel_scale", "factor", factor, &[b, c])?;
    forbid_gradient("channel_scale", "factor", factor)?;
    let size = ChannelScale { b, n: x.len() / (b * c).max(1), c };
    let y = scaled(&size, x, factor)?;
    Ok(record(y, &[x], || Saved { size, factor: factor.detach(), to: x.edge() }))
}

fn scaled(size: &ChannelScale, x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let mut y = x.empty_like(x.shape())?;
    call!(x, size, |M, T| channel_scale::Forward::<M, T> {
        x: M::read(x)?,
        factor: M::read(factor)?,
        y: M::write(&mut y)?,
    })?;
    Ok(y)
}

struct Saved {
    size: ChannelScale,
    factor: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "channel_scale"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let dx = scaled(&self.size, &dy, &self.factor)?;
        grads.add(&self.to, dx)
    }
}
