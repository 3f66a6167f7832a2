//! Cross-entropy of class logits of every pixel.

use dressage_kernels::ops::pixel_loss::{self as op, PixelLoss};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Mean over all pixels of the cross-entropy of planar logits `[b, k, h, w]`, times `weight`: a
/// scalar. Pixels whose label in `labels` `[b, h, w]` (u8) is not a class, such as 255, add nothing
/// but count in the mean (spec mask2former §6).
///
/// # Errors
/// Shapes that do not fit; tensors in different places; a type without a kernel.
pub fn pixel_loss(x: &Tensor, labels: &Tensor, weight: f64) -> Result<Tensor> {
    let &[b, k, h, w] = x.shape() else {
        return Err(shape_error("pixel_loss", "x", "[b, k, h, w]", x));
    };
    expect_shape("pixel_loss", "labels", labels, &[b, h, w])?;
    let size = PixelLoss { b, k, n: h * w, weight };
    let (mut y, mut lse) = (x.empty_sums(&[])?, x.empty_sums(&[b, h * w])?);
    call!(x, &size, |M, T| op::Forward::<M, T> {
        x: M::read(x)?,
        labels: M::read(labels)?,
        lse: M::write(&mut lse)?,
        loss: M::write(&mut y)?,
    })?;
    Ok(record(y, &[x], || Saved { size, x: x.detach(), labels: labels.clone(), lse, to: x.edge() }))
}

struct Saved {
    size: PixelLoss,
    x: Tensor,
    labels: Tensor,
    lse: Tensor,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "pixel_loss"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { size, x, labels, lse, to } = &*self;
        let mut dx = x.empty_like(x.shape())?;
        call!(x, size, |M, T| op::Backward::<M, T> {
            x: M::read(x)?,
            labels: M::read(labels)?,
            lse: M::read(lse)?,
            dloss: M::read(&dy)?,
            dx: M::write(&mut dx)?,
        })?;
        grads.add(to, dx)
    }
}
