//! Cross-entropy of class logits of every pixel.

use dressage_kernels::ops::pixel_loss::PixelLoss;

use super::{expect_shape, shape_error};
use crate::dtype::kernel;
use crate::{Backward, Edge, EngineError, Gradients, Result, Tensor, record};

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
    kernel!("pixel_loss", x, T,
        host => {
            let loss = size.forward(x.data::<T>()?, labels.data()?, lse.data_mut()?)?;
            y.data_mut::<T>()?.fill(loss);
            Ok::<_, EngineError>(())
        },
        device => {
            let (x, labels) = (x.view::<T>()?, labels.view()?);
            size.forward_gpu(device, x, labels, lse.view_mut()?, y.view_mut()?)
        },
    )?;
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
        kernel!("pixel_loss", x, T,
            host => {
                let (labels, lse) = (labels.data()?, lse.data()?);
                size.backward(x.data::<T>()?, labels, lse, dy.item::<T>()?, dx.data_mut()?)
            },
            device => {
                let (labels, lse) = (labels.view()?, lse.view()?);
                size.backward_gpu(device, x.view::<T>()?, labels, lse, dy.view()?, dx.view_mut()?)
            },
        )?;
        grads.add(to, dx)
    }
}
