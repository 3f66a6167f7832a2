//! Layer norm over the last axis; see the kernel for formulas.

use dressage_kernels::layer_norm::{LayerNorm, Stats, StatsGpu};
use dressage_kernels::matmul::Beta;

use super::expect_shape;
use crate::dtype::kernel;
use crate::kept::Kept;
use crate::{Backward, Edge, EngineError, Gradients, Result, Tensor, record};

/// Normalises the last axis of `x` `[.., c]` and applies `weight` `[c]` and `bias` `[c]`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.last_dim();
    expect_shape("layer_norm", "weight", weight, &[c])?;
    expect_shape("layer_norm", "bias", bias, &[c])?;
    let size = LayerNorm { n: x.len() / c.max(1), c, eps };
    let mut y = x.empty_like(x.shape())?;
    let mut mean = x.empty_sums(&[size.n])?;
    let mut rstd = x.empty_sums(&[size.n])?;
    kernel!("layer_norm", x, T,
        host => size.forward(
            x.data::<T>()?,
            weight.data()?,
            bias.data()?,
            y.data_mut()?,
            mean.data_mut()?,
            rstd.data_mut()?,
        ),
        device => size.forward_gpu(
            device,
            x.view::<T>()?,
            weight.view()?,
            bias.view()?,
            y.view_mut()?,
            mean.view_mut()?,
            rstd.view_mut()?,
        ),
    )?;
    let y = record(y, &[x, weight, bias], || Saved {
        size,
        x: x.keep(),
        weight: weight.detach(),
        mean,
        rstd,
        to: [x.edge(), weight.edge(), bias.edge()],
    });
    Ok(y.again(|| {
        let (x, weight, bias) = (x.keep(), weight.detach(), bias.detach());
        move || layer_norm(&x.get()?, &weight, &bias, eps)
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
        let x = self.x.get()?;
        let [to_x, to_weight, to_bias] = &self.to;
        grads.accumulate_or_write(to_x, |dx, beta| {
            self.kernel(&x, &dy, Some((dx, beta)), None, None)
        })?;
        grads.accumulate_all([to_weight, to_bias], |[dw, db]| self.kernel(&x, &dy, None, dw, db))
    }
}

impl Saved {
    fn kernel(
        &self,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<(&mut Tensor, Beta)>,
        dw: Option<&mut Tensor>,
        db: Option<&mut Tensor>,
    ) -> Result<()> {
        let Saved { size, weight, mean, rstd, .. } = self;
        kernel!("layer_norm", dy, T,
            host => size.backward(
                x.data::<T>()?,
                weight.data()?,
                Stats { mean: mean.data()?, rstd: rstd.data()? },
                dy.data()?,
                dx.map(|(dx, beta)| Ok::<_, EngineError>((dx.data_mut()?, beta))).transpose()?,
                dw.map(Tensor::data_mut).transpose()?,
                db.map(Tensor::data_mut).transpose()?,
            ),
            device => size.backward_gpu(
                device,
                x.view::<T>()?,
                weight.view()?,
                StatsGpu { mean: mean.view()?, rstd: rstd.view()? },
                dy.view()?,
                dx.map(|(dx, beta)| Ok::<_, EngineError>((dx.view_mut()?, beta))).transpose()?,
                dw.map(Tensor::view_mut).transpose()?,
                db.map(Tensor::view_mut).transpose()?,
            ),
        )
    }
}
