//! Linear layers fused with the operations next to them in a transformer block. While the weights
//! are frozen, each pair is one kernel that stores no intermediate values.

use dressage_kernels::call::{Call, Host};
use dressage_kernels::ops::layer_norm;
use dressage_kernels::ops::layer_norm::{LayerNorm, Normed};
use dressage_kernels::ops::linear::{Input, Linear, Output, Weight};

use super::add::biased_residual;
use super::{expect_shape, gelu, linear, residual, shape_error};
use crate::saved::SavedValue;
use crate::{Backward, DType, Edge, Gradients, HostFloat, Result, Tensor, floats, record};

/// Weight and bias `[c]` of a layer norm, and the constant added to the variance.
pub struct Norm<'a> {
    /// Weight.
    pub weight: &'a Tensor,
    /// Bias.
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// The activation applied to the input of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activated {
    /// No activation.
    Plain,
    /// Exact GELU.
    Gelu,
}

/// The weight, in the type of the arithmetic or in bf16.
pub(super) fn weight_of<T: HostFloat>(weight: &Tensor) -> Result<Weight<'_, T>> {
    Ok(match weight.dtype() {
        DType::Bf16 => Weight::Bf16(weight.data()?),
        _ => Weight::Full(weight.data()?),
    })
}

/// Sizes of a layer with this weight on the last axis of `x`, and the shape of its result.
pub(super) fn layer(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Linear, Vec<usize>)> {
    let k = x.last_dim();
    if weight.shape().len() != 2 || weight.dim(1) != k {
        return Err(shape_error(op, "weight", format!("[m, {k}]"), weight));
    }
    let m = weight.dim(0);
    if let Some(bias) = bias {
        expect_shape(op, "bias", bias, &[m])?;
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = m;
    }
    Ok((Linear { n: x.len() / k.max(1), m, k }, shape))
}

/// Computes `layer_norm(x) W^T + b` over the last axis: x `[.., k]`, W `[m, k]`, b `[m]`. Saves x
/// and the statistics of its rows. On the host the normalised rows are stored only if a parameter
/// needs a gradient. The result can be recomputed by one product ([`crate::RecomputePolicy`]).
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn norm_linear(
    x: &Tensor,
    norm: &Norm<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let trained = [Some(norm.weight), Some(norm.bias), Some(weight), bias];
    // A device has no fused kernel. There the norm saves x, and the frozen product saves nothing.
    if x.device().is_some() || trained.into_iter().flatten().any(Tensor::tracked) {
        let y = super::layer_norm(x, norm.weight, norm.bias, norm.eps)?;
        return linear(&y, weight, bias);
    }
    let (size, shape) = layer("norm_linear", x, weight, bias)?;
    expect_shape("norm_linear", "weight of the norm", norm.weight, &[size.k])?;
    expect_shape("norm_linear", "bias of the norm", norm.bias, &[size.k])?;
    floats!("norm_linear", x, T => {
        let rows = LayerNorm { n: size.n, c: size.k, eps: norm.eps };
        let mut mean = Tensor::empty::<T>(&[size.n]);
        let mut rstd = Tensor::empty::<T>(&[size.n]);
        layer_norm::Stats::<Host, T> {
            x: x.data()?,
            mean: mean.data_mut()?,
            rstd: rstd.data_mut()?,
        }
        .run(&rows)?;
        let input = Input::Normed(Normed {
            z: x.data::<T>()?,
            mean: mean.data()?,
            rstd: rstd.data()?,
            weight: norm.weight.data()?,
            bias: norm.bias.data()?,
        });
        let mut y = Tensor::empty::<T>(&shape);
        let b = bias.map(|b| b.data::<T>()).transpose()?;
        size.fused(input, weight_of(weight)?, b, Output::Plain, y.data_mut()?)?;
        let y = record(y, &[x], || NormLinear {
            size,
            rows,
            x: x.save(),
            mean,
            rstd,
            norm_weight: norm.weight.clone(),
            weight: weight.clone(),
            to: x.edge(),
        });
        Ok(y.recomputable(|| {
            let (x, eps) = (x.save(), norm.eps);
            let [w, b, weight] = [norm.weight, norm.bias, weight].map(Tensor::clone);
            let bias = bias.cloned();
            move || {
                let norm = Norm { weight: &w, bias: &b, eps };
                norm_linear(&x.get()?, &norm, &weight, bias.as_ref())
            }
        }))
    })
}

struct NormLinear {
    size: Linear,
    rows: LayerNorm,
    x: SavedValue,
    mean: Tensor,
    rstd: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    to: Edge,
}

impl Backward for NormLinear {
    fn name(&self) -> &'static str {
        "norm_linear"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("norm_linear", dy, T => {
            let x = self.x.get()?;
            let mut dv = Tensor::empty::<T>(x.shape());
            let weight = weight_of::<T>(&self.weight)?;
            self.size.fused_backward(weight, None, None, dy.data()?, dv.data_mut()?)?;
            drop(dy);
            grads.accumulate_or_write(&self.to, |dx, write| {
                let call = layer_norm::Backward::<Host, T> {
                    x: x.data()?,
                    weight: self.norm_weight.data()?,
                    mean: self.mean.data()?,
                    rstd: self.rstd.data()?,
                    dy: dv.data()?,
                    dx: Some(dx.data_mut()?),
                    write,
                    dweight: None,
                    dbias: None,
                };
                Ok(call.run(&self.rows)?)
            })
        })
    }
}

/// Computes `x + gamma (f(z) W^T + b)` over the last axis.
///
/// Shapes: z `[.., k]`, W `[m, k]`, b and gamma `[m]`, x `[.., m]`; gamma `None` means 1. Saves
/// only z, and only if `f` is GELU. On the host the activated rows and the product are stored only
/// if a parameter needs a gradient.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn linear_residual(
    x: &Tensor,
    z: &Tensor,
    f: Activated,
    weight: &Tensor,
    bias: Option<&Tensor>,
    gamma: Option<&Tensor>,
) -> Result<Tensor> {
    let trained = [Some(weight), bias, gamma].into_iter().flatten().any(Tensor::tracked);
    // A device has no fused kernel. The saved values are the same there.
    if trained || x.device().is_some() {
        let z = if f == Activated::Gelu { gelu(z)? } else { z.clone() };
        return match trained {
            true => residual(x, &linear(&z, weight, bias)?, gamma),
            false => biased_residual(x, &linear(&z, weight, None)?, bias, gamma),
        };
    }
    let (size, shape) = layer("linear_residual", z, weight, bias)?;
    expect_shape("linear_residual", "x", x, &shape)?;
    if let Some(gamma) = gamma {
        expect_shape("linear_residual", "gamma", gamma, &[size.m])?;
    }
    floats!("linear_residual", x, T => {
        let mut y = Tensor::empty::<T>(&shape);
        let input = match f {
            Activated::Plain => Input::Plain(z.data::<T>()?),
            Activated::Gelu => Input::Gelu(z.data::<T>()?),
        };
        let [b, g] = [bias, gamma].map(|p| p.map(|p| p.data::<T>()).transpose());
        let output = Output::Residual { x: x.data()?, gamma: g? };
        size.fused(input, weight_of(weight)?, b?, output, y.data_mut()?)?;
        Ok(record(y, &[x, z], || LinearResidual {
            size,
            z: (f == Activated::Gelu).then(|| z.save()),
            z_shape: z.shape().to_vec(),
            weight: weight.clone(),
            gamma: gamma.cloned(),
            to_x: x.edge(),
            to_z: z.edge(),
        }))
    })
}

struct LinearResidual {
    size: Linear,
    /// Saved only for GELU.
    z: Option<SavedValue>,
    z_shape: Vec<usize>,
    weight: Tensor,
    gamma: Option<Tensor>,
    to_x: Edge,
    to_z: Edge,
}

impl Backward for LinearResidual {
    fn name(&self) -> &'static str {
        "linear_residual"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("linear_residual", dy, T => {
            if self.to_z.wants() {
                let mut dz = Tensor::empty::<T>(&self.z_shape);
                let gamma = self.gamma.as_ref().map(|g| g.data::<T>()).transpose()?;
                let z = self.z.as_ref().map(SavedValue::get).transpose()?;
                let z = z.as_ref().map(|z| z.data::<T>()).transpose()?;
                let weight = weight_of::<T>(&self.weight)?;
                self.size.fused_backward(weight, gamma, z, dy.data()?, dz.data_mut()?)?;
                grads.add(&self.to_z, dz)?;
            }
            grads.add(&self.to_x, dy)
        })
    }
}
