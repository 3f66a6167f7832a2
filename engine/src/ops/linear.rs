//! Linear layer with the weight in PyTorch's layout `[out, in]`.

use dressage_kernels::device::Float;
use dressage_kernels::ops::linear::{self as op, Input, Linear, Output};
use half::bf16;

use super::fused::{layer, weight_of};
use crate::call::{Place, call};
use crate::dtype::Element;
use crate::saved::SavedValue;
use crate::{Backward, DType, Device, Edge, Gradients, Result, Tensor, floats, record};

/// Computes `y = x W^T + b` over the last axis.
///
/// Shapes: x `[.., k]`, weight `[m, k]`, bias `[m]`, y `[.., m]`. Saves `x` only if the weight
/// needs a gradient; with a frozen weight the backward pass is one product. The result of a frozen
/// layer can be recomputed by one product ([`crate::RecomputePolicy`]). Activations, which save
/// that result, make use of this. On the host a frozen weight may be bf16 with an f32 `x`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (size, shape) = layer("linear", x, weight, bias)?;
    let mut y = x.empty_like(&shape)?;
    if narrow(x, weight) {
        floats!("linear", x, T => {
            let (z, b) = (Input::Plain(x.data::<T>()?), bias.map(Tensor::data).transpose()?);
            size.fused(z, weight_of(weight)?, b, Output::Plain, y.data_mut()?).map_err(From::from)
        })?;
    } else {
        call!(x, &size, |M, T| op::Forward::<M, T> {
            x: M::read(x)?,
            weight: M::read(weight)?,
            bias: M::read_if(bias)?,
            y: M::write(&mut y)?,
        })?;
    }
    let y = saved(size, y, x, weight, bias, false);
    if weight.tracked() || bias.is_some_and(Tensor::tracked) {
        return Ok(y);
    }
    Ok(y.recomputable(|| {
        let (x, weight, bias) = (x.save(), weight.detach(), bias.map(Tensor::detach));
        move || linear(&x.get()?, &weight, bias.as_ref())
    }))
}

/// Whether the arithmetic widens the weight: bf16 on the host, in half the memory.
fn narrow(x: &Tensor, weight: &Tensor) -> bool {
    x.device().is_none() && weight.dtype() == DType::Bf16
}

/// Computes `max(x W^T + b, 0)`: [`linear`] and [`super::relu`]. On a device one product does both.
/// Saves x like [`linear`], and its result, which the next layer saves anyway.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn linear_relu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.device().is_none() {
        return super::relu(&linear(x, weight, Some(bias))?);
    }
    let (size, shape) = layer("linear", x, weight, Some(bias))?;
    let mut y = x.empty_like(&shape)?;
    call!(x, &size, |M, T| op::ForwardRelu::<M, T> {
        x: M::read(x)?,
        weight: M::read(weight)?,
        bias: M::read(bias)?,
        y: M::write(&mut y)?,
    })?;
    Ok(saved(size, y, x, weight, Some(bias), true))
}

/// Records the result with what its backward pass needs.
fn saved(
    size: Linear,
    y: Tensor,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rectified: bool,
) -> Tensor {
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    let result = rectified.then(|| y.detach());
    record(y, &inputs, || Saved { rectified: result, ..Saved::of(size, x, weight, bias) })
}

/// Saved values of a linear layer.
pub(super) struct Saved {
    size: Linear,
    /// The result of a ReLU: positive exactly where its input was.
    rectified: Option<Tensor>,
    x: Option<SavedValue>,
    weight: Tensor,
    x_shape: Vec<usize>,
    to_x: Edge,
    to_weight: Edge,
    to_bias: Option<Edge>,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let dy = match &self.rectified {
            Some(y) => super::activation::relu_backward(y, &dy)?,
            None => dy,
        };
        if self.to_x.wants() {
            grads.add(&self.to_x, self.input(&dy)?)?;
        }
        self.to_parameters(&dy, grads)
    }
}

impl Saved {
    /// Saved values of `x W^T + b`.
    pub fn of(size: Linear, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Saved {
        Saved {
            size,
            rectified: None,
            x: weight.tracked().then(|| x.save()),
            weight: weight.detach(),
            x_shape: x.shape().to_vec(),
            to_x: x.edge(),
            to_weight: weight.edge(),
            to_bias: bias.map(Tensor::edge),
        }
    }

    /// Whether any gradient is needed.
    pub fn wants(&self) -> bool {
        let bias = self.to_bias.as_ref().is_some_and(Edge::wants);
        self.to_x.wants() || self.to_weight.wants() || bias
    }

    /// Adds the gradients of weight and bias.
    pub fn to_parameters(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        if let (Some(x), Some(to_bias), Some(_)) = (&self.x, &self.to_bias, dy.device()) {
            // On a device one product computes both.
            let x = x.get()?;
            return grads.accumulate_all([&self.to_weight, to_bias], |[dw, db]| {
                self.parameters(Some(&x), dy, dw, db)
            });
        }
        if let Some(x) = &self.x {
            let x = x.get()?;
            grads
                .accumulate(&self.to_weight, |dw| self.parameters(Some(&x), dy, Some(dw), None))?;
        }
        if let Some(to_bias) = &self.to_bias {
            grads.accumulate(to_bias, |db| self.parameters(None, dy, None, Some(db)))?;
        }
        Ok(())
    }

    /// Computes `dx = dy W`, zero where the ReLU mask of `x` has no bit. `None` if the device
    /// cannot do both in one kernel.
    pub fn input_before_relu(&self, dy: &Tensor, mask: &Tensor) -> Result<Option<Tensor>> {
        let Some(device) = dy.device() else { return Ok(None) };
        let mut dx = dy.empty_like(&self.x_shape)?;
        let done = match dy.dtype() {
            DType::Bf16 => self.masked::<bf16>(device, dy, mask, &mut dx)?,
            _ => self.masked::<f32>(device, dy, mask, &mut dx)?,
        };
        Ok(done.then_some(dx))
    }

    fn masked<T: Element + Float>(
        &self,
        device: &Device,
        dy: &Tensor,
        mask: &Tensor,
        dx: &mut Tensor,
    ) -> Result<bool> {
        let (w, dy, bits) = (self.weight.view::<T>()?, dy.view()?, mask.view()?);
        Ok(self.size.dx_before_relu_gpu(device, w, dy, bits, dx.view_mut()?)?)
    }

    /// Computes `dx = dy W`.
    pub fn input(&self, dy: &Tensor) -> Result<Tensor> {
        let mut dx = dy.empty_like(&self.x_shape)?;
        let (size, weight) = (&self.size, &self.weight);
        if narrow(dy, weight) {
            floats!("linear", dy, T => {
                let (w, dy) = (weight_of::<T>(weight)?, dy.data()?);
                size.fused_backward(w, None, None, dy, dx.data_mut()?).map_err(From::from)
            })?;
        } else {
            call!(dy, size, |M, T| op::Backward::<M, T> {
                weight: M::read(weight)?,
                dy: M::read(dy)?,
                dx: M::write(&mut dx)?,
            })?;
        }
        Ok(dx)
    }

    fn parameters(
        &self,
        x: Option<&Tensor>,
        dy: &Tensor,
        dw: Option<&mut Tensor>,
        db: Option<&mut Tensor>,
    ) -> Result<()> {
        call!(dy, &self.size, |M, T| op::ParameterGradients::<M, T> {
            x: M::read_if(x)?,
            dy: M::read(dy)?,
            dweight: M::write_if(dw)?,
            dbias: M::write_if(db)?,
        })
    }
}
