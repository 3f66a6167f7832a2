//! Two linear layers with a ReLU between them.

use dressage_kernels::call::{Gpu, Launch};
use dressage_kernels::device::{Epilogue, Float};
use dressage_kernels::ops::linear::{Forward, Linear};
use half::bf16;

use super::activation::relu_backward;
use super::fused::layer;
use super::linear::{Saved, linear, linear_relu};
use crate::dtype::Element;
use crate::{Backward, DType, Device, Gradients, Result, Tensor, record};

/// Weight `[out, in]` and bias `[out]` of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Weight.
    pub weight: &'a Tensor,
    /// Bias.
    pub bias: &'a Tensor,
}

/// Computes `max(x W1^T + b1, 0) W2^T + b2` over the last axis.
///
/// On the host it is [`linear_relu`] and [`linear`]. On a device the first product also writes a
/// bit mask of the ReLU. The backward product of the second layer applies this mask to the gradient
/// that it computes. Saves the hidden layer, the mask and, if the first weight is trained, x.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn feed_forward(x: &Tensor, first: Layer<'_>, second: Layer<'_>) -> Result<Tensor> {
    let Some(device) = x.device() else {
        let hidden = linear_relu(x, first.weight, first.bias)?;
        return linear(&hidden, second.weight, Some(second.bias));
    };
    let (size, shape) = layer("feed_forward", x, first.weight, Some(first.bias))?;
    let mut h = x.empty_like(&shape)?;
    let (next, shape) = layer("feed_forward", &h, second.weight, Some(second.bias))?;
    let mut y = x.empty_like(&shape)?;
    let (sizes, layers) = ([&size, &next], [first, second]);
    let mask = match x.dtype() {
        DType::Bf16 => run::<bf16>(device, sizes, x, layers, [&mut h, &mut y])?,
        _ => run::<f32>(device, sizes, x, layers, [&mut h, &mut y])?,
    };
    let inputs = [x, first.weight, first.bias, second.weight, second.bias];
    Ok(record(y, &inputs, || FeedForward {
        first: Saved::of(size, x, first.weight, Some(first.bias)),
        // The hidden layer is not a node of its own.
        second: Saved::of(next, &h, second.weight, Some(second.bias)),
        hidden: h.detach(),
        mask,
    }))
}

/// Writes the hidden layer and the result; returns the mask if the device wrote one.
fn run<T: Element + Float>(
    device: &Device,
    [size, next]: [&Linear; 2],
    x: &Tensor,
    [first, second]: [Layer<'_>; 2],
    [h, y]: [&mut Tensor; 2],
) -> Result<Option<Tensor>> {
    let bytes = Epilogue::mask_len(size.n, size.m);
    let mut mask = Tensor::empty_on(Some(device), DType::U8, &[bytes])?;
    let (x, w, b) = (x.view::<T>()?, first.weight.view()?, first.bias.view()?);
    let bits = mask.view_mut()?;
    let written = size.forward_relu_mask_gpu(device, x, w, b, bits, h.view_mut()?)?;
    let (weight, bias) = (second.weight.view()?, Some(second.bias.view()?));
    let call = Forward::<Gpu, T> { x: h.view()?, weight, bias, y: y.view_mut()? };
    call.launch(device, next)?;
    Ok(written.then_some(mask))
}

struct FeedForward {
    first: Saved,
    second: Saved,
    hidden: Tensor,
    mask: Option<Tensor>,
}

impl Backward for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        self.second.to_parameters(&dy, grads)?;
        if !self.first.wants() {
            return Ok(());
        }
        let masked = match &self.mask {
            Some(mask) => self.second.input_before_relu(&dy, mask)?,
            None => None,
        };
        let before = match masked {
            Some(before) => before,
            None => relu_backward(&self.hidden, &self.second.input(&dy)?)?,
        };
        drop(dy);
        Box::new(self.first).backward(before, grads)
    }
}
