//! Layer norm over the last axis; see the kernel for formulas.

use dressage_kernels::layer_norm::{LayerNorm, Stats};

use super::expect_shape;
use crate::kept::Kept;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// Normalises the last axis of `x` `[.., c]` and applies `weight` `[c]` and `bias` `[c]`.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.last_dim();
    expect_shape("layer_norm", "weight", weight, &[c])?;
    expect_shape("layer_norm", "bias", bias, &[c])?;
    let size = LayerNorm { n: x.len() / c.max(1), c, eps };
    let y = floats!("layer_norm", x, T => forward::<T>(x, weight, bias, size))?;
    Ok(y.again(|| {
        let (x, weight, bias) = (x.keep(), weight.detach(), bias.detach());
        move || layer_norm(&x.get()?, &weight, &bias, eps)
    }))
}

fn forward<T: Float>(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    size: LayerNorm,
) -> Result<Tensor> {
    let mut y = Tensor::empty::<T>(x.shape());
    let mut mean = Tensor::empty::<T>(&[size.n]);
    let mut rstd = Tensor::empty::<T>(&[size.n]);
    size.forward(
        x.data::<T>()?,
        weight.data()?,
        bias.data()?,
        y.data_mut()?,
        mean.data_mut()?,
        rstd.data_mut()?,
    )?;
    Ok(record(y, &[x, weight, bias], || Saved {
        size,
        x: x.keep(),
        weight: weight.detach(),
        mean,
        rstd,
        to: [x.edge(), weight.edge(), bias.edge()],
    }))
}

struct Saved {
    size: LayerNorm,
    x: Kept,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    to: [Edge; 3],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("layer_norm", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Saved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let x = self.x.get()?;
        let (x, weight, dy) = (x.data::<T>()?, self.weight.data::<T>()?, dy.data::<T>()?);
        let (mean, rstd) = (self.mean.data::<T>()?, self.rstd.data::<T>()?);
        let [to_x, to_weight, to_bias] = &self.to;
        grads.accumulate_or_write::<T>(to_x, |dx, beta| {
            let stats = Stats { mean, rstd };
            Ok(self.size.backward(x, weight, stats, dy, Some((dx, beta)), None, None)?)
        })?;
        grads.accumulate::<T>(to_weight, |dw| {
            let stats = Stats { mean, rstd };
            Ok(self.size.backward(x, weight, stats, dy, None, Some(dw), None)?)
        })?;
        grads.accumulate::<T>(to_bias, |db| {
            let stats = Stats { mean, rstd };
            Ok(self.size.backward(x, weight, stats, dy, None, None, Some(db))?)
        })
    }
}
