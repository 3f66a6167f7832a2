//! Linear layer with the weight in the framework's layout `[out, in]`.

use dressage_kernels::add::Add;
use dressage_kernels::linear::{Input, Linear, Output, Weight};
use dressage_kernels::matmul::Beta;

use super::frozen::{layer, weight_of};
use crate::kept::Kept;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// `y = x W^T + b` over the last axis: x `[.., k]`, weight `[m, k]`, bias `[m]`, y `[.., m]`.
/// Saves `x` only if the weight needs a gradient; with a frozen weight the backward pass is one
/// product. The result of a frozen layer can be made again by one product: activations, which save
/// it, make use of that ([`crate::Thrift`]). A frozen weight may be bf16; x and the result are not.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (size, shape) = layer("linear", x, weight, bias)?;
    let y = floats!("linear", x, T => forward::<T>(size, &shape, x, weight, bias))?;
    if weight.tracked() || bias.is_some_and(Tensor::tracked) {
        return Ok(y);
    }
    Ok(y.again(|| {
        let (x, weight, bias) = (x.keep(), weight.detach(), bias.map(Tensor::detach));
        move || linear(&x.get()?, &weight, bias.as_ref())
    }))
}

fn forward<T: Float>(
    size: Linear,
    shape: &[usize],
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = Tensor::empty::<T>(shape);
    let b = bias.map(|b| b.data::<T>()).transpose()?;
    match weight_of::<T>(weight)? {
        Weight::Full(w) => size.forward(x.data::<T>()?, w, b, y.data_mut()?)?,
        w => size.fused(Input::Plain(x.data()?), w, b, Output::Plain, y.data_mut()?)?,
    }
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    Ok(record(y, &inputs, || Saved {
        size,
        x: weight.tracked().then(|| x.keep()),
        weight: weight.detach(),
        x_shape: x.shape().to_vec(),
        to_x: x.edge(),
        to_weight: weight.edge(),
        to_bias: bias.map(Tensor::edge),
    }))
}

struct Saved {
    size: Linear,
    x: Option<Kept>,
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
        floats!("linear", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Saved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let dy = dy.data::<T>()?;
        if self.to_x.wants() {
            let mut dx = Tensor::empty::<T>(&self.x_shape);
            match weight_of::<T>(&self.weight)? {
                Weight::Full(w) => {
                    self.size.backward(None, w, dy, Some(dx.data_mut()?), None, None)?;
                }
                w => self.size.fused_backward(w, None, None, dy, dx.data_mut()?)?,
            }
            grads.add(&self.to_x, dx)?;
        }
        if let Some(x) = &self.x {
            let x = x.get()?;
            let (x, weight) = (x.data::<T>()?, self.weight.data()?);
            grads.accumulate::<T>(&self.to_weight, |dw| {
                Ok(self.size.backward(Some(x), weight, dy, None, Some(dw), None)?)
            })?;
        }
        if let Some(to_bias) = &self.to_bias {
            grads.accumulate::<T>(to_bias, |db| {
                let rows = Add { n: self.size.n, inner: self.size.m };
                Ok(rows.backward_b(dy, Beta::Add, db)?)
            })?;
        }
        Ok(())
    }
}
