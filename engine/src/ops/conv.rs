//! Convolutions of channels-last maps and group norm.

use dressage_kernels::conv2d::Conv2d;
use dressage_kernels::group_norm::{GroupNorm, Stats};
use dressage_kernels::patch_embed::PatchEmbed;

use super::{expect_shape, shape_error};
use crate::kept::Kept;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// Convolution of x `[b, h, w, ci]` with weight `[co, ci, kh, kw]` (the reference's layout) and
/// bias `[co]`; result `[b, ho, wo, co]`.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    pad: usize,
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
    let size = Conv2d { b, h, w, ci, co, kh, kw, stride, pad };
    let (ho, wo) = size.output()?;
    floats!("conv2d", x, T => {
        let mut y = Tensor::empty::<T>(&[b, ho, wo, co]);
        let data = bias.map(|b| b.data::<T>()).transpose()?;
        size.forward(x.data()?, weight.data()?, data, y.data_mut()?)?;
        Ok(conv_record(Size::Conv(size), y, x, weight, bias))
    })
}

/// Non-overlapping patches of an image `[b, 3, h, w]` through a kernel `[c, 3, p, p]`: tokens `[b,
/// (h/p)(w/p), c]`, row-major.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
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
    floats!("patch_embed", image, T => {
        let mut y = Tensor::empty::<T>(&[b, (h / p) * (w / p), c]);
        let data = bias.map(|b| b.data::<T>()).transpose()?;
        size.forward(image.data()?, weight.data()?, data, y.data_mut()?)?;
        Ok(conv_record(Size::Patch(size), y, image, weight, bias))
    })
}

#[derive(Clone, Copy)]
enum Size {
    Conv(Conv2d),
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
        x: weight.tracked().then(|| x.keep()),
        x_shape: x.shape().to_vec(),
        weight: weight.detach(),
        to_x: x.edge(),
        to_weight: weight.edge(),
        to_bias: bias.map(Tensor::edge),
    })
}

struct ConvSaved {
    size: Size,
    /// Only where the weight needs a gradient.
    x: Option<Kept>,
    x_shape: Vec<usize>,
    weight: Tensor,
    to_x: Edge,
    to_weight: Edge,
    to_bias: Option<Edge>,
}

impl Backward for ConvSaved {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("conv2d", dy, T => self.run::<T>(&dy, grads))
    }
}

impl ConvSaved {
    fn kernel<T: Float>(
        &self,
        x: Option<&[T]>,
        dy: &[T],
        dx: Option<&mut [T]>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        let weight = self.weight.data::<T>()?;
        match self.size {
            Size::Conv(s) => s.backward(x, weight, dy, dx, dweight, dbias)?,
            Size::Patch(s) => s.backward(x, weight, dy, dx, dweight, dbias)?,
        }
        Ok(())
    }

    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let dy = dy.data::<T>()?;
        if self.to_x.wants() {
            let mut dx = Tensor::empty::<T>(&self.x_shape);
            self.kernel(None, dy, Some(dx.data_mut()?), None, None)?;
            grads.add(&self.to_x, dx)?;
        }
        if let Some(x) = &self.x {
            let x = x.get()?;
            let x = x.data::<T>()?;
            grads.accumulate::<T>(&self.to_weight, |dw| {
                self.kernel(Some(x), dy, None, Some(dw), None)
            })?;
        }
        if let Some(to_bias) = &self.to_bias {
            grads.accumulate::<T>(to_bias, |db| self.kernel(None, dy, None, None, Some(db)))?;
        }
        Ok(())
    }
}

/// Group norm of channels-last maps `[b, .., c]` with weight and bias `[c]`.
///
/// # Errors
/// Channels that do not divide into `groups`; a type other than f32 and f64.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (b, c) = (x.dim(0), x.last_dim());
    if x.shape().len() < 3 || groups == 0 || c % groups != 0 {
        let want = format!("[b, .., c] with c divisible into {groups} groups");
        return Err(shape_error("group_norm", "x", want, x));
    }
    expect_shape("group_norm", "weight", weight, &[c])?;
    expect_shape("group_norm", "bias", bias, &[c])?;
    let size = GroupNorm { b, hw: x.len() / (b * c).max(1), c, groups, eps };
    floats!("group_norm", x, T => norm_forward::<T>(size, x, weight, bias))
}

fn norm_forward<T: Float>(
    size: GroupNorm,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let mut y = Tensor::empty::<T>(x.shape());
    let mut mean = Tensor::empty::<T>(&[size.b, size.groups]);
    let mut rstd = Tensor::empty::<T>(&[size.b, size.groups]);
    size.forward(
        x.data::<T>()?,
        weight.data()?,
        bias.data()?,
        y.data_mut()?,
        mean.data_mut()?,
        rstd.data_mut()?,
    )?;
    Ok(record(y, &[x, weight, bias], || NormSaved {
        size,
        x: x.detach(),
        weight: weight.detach(),
        mean,
        rstd,
        to: [x.edge(), weight.edge(), bias.edge()],
    }))
}

struct NormSaved {
    size: GroupNorm,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    to: [Edge; 3],
}

impl Backward for NormSaved {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("group_norm", dy, T => self.run::<T>(&dy, grads))
    }
}

impl NormSaved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let (x, weight, dy) = (self.x.data::<T>()?, self.weight.data::<T>()?, dy.data::<T>()?);
        let (mean, rstd) = (self.mean.data::<T>()?, self.rstd.data::<T>()?);
        let [to_x, to_weight, to_bias] = &self.to;
        if to_x.wants() {
            let mut dx = Tensor::empty::<T>(self.x.shape());
            let stats = Stats { mean, rstd };
            self.size.backward(x, weight, stats, dy, Some(dx.data_mut()?), None, None)?;
            grads.add(to_x, dx)?;
        }
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
