//! Convolutions of channels-last maps.

use dressage_kernels::ops::conv2d::{self, Conv2d};
use dressage_kernels::ops::depthwise_conv::{self, DepthwiseConv};
use dressage_kernels::ops::patch_embed::{self, PatchEmbed};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::saved::SavedValue;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Convolution of x `[b, h, w, ci]` with weight `[co, ci, kh, kw]` and bias `[co]`. The weight has
/// the reference's layout. The result is `[b, ho, wo, co]`.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    pad: usize,
) -> Result<Tensor> {
    conv2d_dilated(x, weight, bias, stride, pad, 1)
}

/// [`conv2d()`] whose kernel reads every `dilation`-th pixel.
///
/// # Errors
/// Errors of [`conv2d()`].
pub fn conv2d_dilated(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    pad: usize,
    dilation: usize,
) -> Result<Tensor> {
    let &[b, h, w, ci] = x.shape() else {
        return Err(shape_error("conv2d", "x", "[b, h, w, c]", x));
    };
    let &[co, wi, kh, kw] = weight.shape() else {
        return Err(shape_error("conv2d", "weight", "[co, ci, kh, kw]", weight));
    };
    if wi != ci {
        return Err(shape_error("conv2d", "weight", format!("{ci} input channels"), weight));
    }
    if let Some(bias) = bias {
        expect_shape("conv2d", "bias", bias, &[co])?;
    }
    let size = Conv2d { b, h, w, ci, co, kh, kw, stride, pad, dilation };
    let (ho, wo) = size.output()?;
    let mut y = x.empty_like(&[b, ho, wo, co])?;
    call!(x, &size, |M, T| conv2d::Forward::<M, T> {
        x: M::read(x)?,
        weight: M::read(weight)?,
        bias: M::read_if(bias)?,
        y: M::write(&mut y)?,
    })?;
    Ok(conv_record(Size::Conv(size), y, x, weight, bias))
}

/// Convolution of each channel of x `[b, h, w, c]` with a kernel of its own, `weight` `[c, 1, k, k]`,
/// with stride 1. The result is `[b, ho, wo, c]`.
///
/// # Errors
/// Shapes that do not fit; padding that is not less than the kernel; a type without a kernel.
pub fn depthwise_conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    pad: usize,
) -> Result<Tensor> {
    let &[b, h, w, c] = x.shape() else {
        return Err(shape_error("depthwise_conv", "x", "[b, h, w, c]", x));
    };
    let k = weight.last_dim();
    expect_shape("depthwise_conv", "weight", weight, &[c, 1, k, k])?;
    if let Some(bias) = bias {
        expect_shape("depthwise_conv", "bias", bias, &[c])?;
    }
    let size = DepthwiseConv { b, h, w, c, k, pad };
    let (ho, wo) = size.output()?;
    let mut y = x.empty_like(&[b, ho, wo, c])?;
    call!(x, &size, |M, T| depthwise_conv::Forward::<M, T> {
        x: M::read(x)?,
        weight: M::read(weight)?,
        bias: M::read_if(bias)?,
        y: M::write(&mut y)?,
    })?;
    Ok(conv_record(Size::Depthwise(size), y, x, weight, bias))
}

/// Embeds the non-overlapping patches of an image `[b, 3, h, w]` with a kernel `[c, 3, p, p]`. The
/// result is the tokens `[b, (h/p)(w/p), c]` in row-major order.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn patch_embed(image: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let &[b, 3, h, w] = image.shape() else {
        return Err(shape_error("patch_embed", "image", "[b, 3, h, w]", image));
    };
    let &[c, 3, p, q] = weight.shape() else {
        return Err(shape_error("patch_embed", "weight", "[c, 3, p, p]", weight));
    };
    if p != q || p == 0 || h % p != 0 || w % p != 0 {
        return Err(shape_error("patch_embed", "image", format!("sides divisible by {p}"), image));
    }
    if let Some(bias) = bias {
        expect_shape("patch_embed", "bias", bias, &[c])?;
    }
    let size = PatchEmbed { b, channels: 3, h, w, p, c };
    let mut y = image.empty_like(&[b, (h / p) * (w / p), c])?;
    call!(image, &size, |M, T| patch_embed::Forward::<M, T> {
        x: M::read(image)?,
        weight: M::read(weight)?,
        bias: M::read_if(bias)?,
        y: M::write(&mut y)?,
    })?;
    Ok(conv_record(Size::Patch(size), y, image, weight, bias))
}

#[derive(Clone, Copy)]
enum Size {
    Conv(Conv2d),
    Depthwise(DepthwiseConv),
    Patch(PatchEmbed),
}

fn conv_record(
    size: Size,
    y: Tensor,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Tensor {
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    record(y, &inputs, || ConvSaved {
        size,
        x: weight.tracked().then(|| x.save()),
        x_shape: x.shape().to_vec(),
        weight: weight.detach(),
        to_x: x.edge(),
        to_weight: weight.edge(),
        to_bias: bias.map(Tensor::edge),
    })
}

struct ConvSaved {
    size: Size,
    /// Saved only if the weight needs a gradient.
    x: Option<SavedValue>,
    x_shape: Vec<usize>,
    weight: Tensor,
    to_x: Edge,
    to_weight: Edge,
    to_bias: Option<Edge>,
}

impl Backward for ConvSaved {
    fn name(&self) -> &'static str {
        match self.size {
            Size::Depthwise(_) => "depthwise_conv",
            _ => "conv2d",
        }
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        if self.to_x.wants() {
            let mut dx = dy.empty_like(&self.x_shape)?;
            self.input(&dy, &mut dx)?;
            grads.add(&self.to_x, dx)?;
        }
        if let Some(x) = &self.x {
            let x = x.get()?;
            grads
                .accumulate(&self.to_weight, |dw| self.parameters(Some(&x), &dy, Some(dw), None))?;
        }
        if let Some(to_bias) = &self.to_bias {
            grads.accumulate(to_bias, |db| self.parameters(None, &dy, None, Some(db)))?;
        }
        Ok(())
    }
}

impl ConvSaved {
    /// Writes `dx`.
    fn input(&self, dy: &Tensor, dx: &mut Tensor) -> Result<()> {
        let weight = &self.weight;
        match &self.size {
            Size::Conv(size) => call!(dy, size, |M, T| conv2d::Backward::<M, T> {
                weight: M::read(weight)?,
                dy: M::read(dy)?,
                dx: M::write(dx)?,
            }),
            Size::Depthwise(size) => call!(dy, size, |M, T| depthwise_conv::Backward::<M, T> {
                weight: M::read(weight)?,
                dy: M::read(dy)?,
                dx: M::write(dx)?,
            }),
            Size::Patch(size) => call!(dy, size, |M, T| patch_embed::Backward::<M, T> {
                weight: M::read(weight)?,
                dy: M::read(dy)?,
                dx: M::write(dx)?,
            }),
        }
    }

    /// Adds to `dw` and `db`.
    fn parameters(
        &self,
        x: Option<&Tensor>,
        dy: &Tensor,
        dw: Option<&mut Tensor>,
        db: Option<&mut Tensor>,
    ) -> Result<()> {
        match &self.size {
            Size::Conv(size) => call!(dy, size, |M, T| conv2d::ParameterGradients::<M, T> {
                x: M::read_if(x)?,
                dy: M::read(dy)?,
                dweight: M::write_if(dw)?,
                dbias: M::write_if(db)?,
            }),
            Size::Depthwise(size) => {
                call!(dy, size, |M, T| depthwise_conv::ParameterGradients::<M, T> {
                    x: M::read_if(x)?,
                    dy: M::read(dy)?,
                    dweight: M::write_if(dw)?,
                    dbias: M::write_if(db)?,
                })
            }
            Size::Patch(size) => call!(dy, size, |M, T| patch_embed::ParameterGradients::<M, T> {
                x: M::read_if(x)?,
                dy: M::read(dy)?,
                dweight: M::write_if(dw)?,
                dbias: M::write_if(db)?,
            }),
        }
    }
}
