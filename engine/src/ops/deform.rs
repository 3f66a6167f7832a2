//! Multi-scale deformable attention.

use dressage_kernels::ops::ms_deform_attn::MsDeformAttn;

use super::{cast, expect_shape, shape_error};
use crate::dtype::kernel;
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Samples `value` around each token's own position and weights the samples by a softmax.
///
/// Shapes: `value` `[b, s, heads, d]`; `offsets` `[b, s, heads, levels, points, 2]`, as (x, y) in
/// pixels of the sampled level; `logits` of the weights `[b, s, heads, levels * points]`; the
/// result `[b, s, heads * d]`. `sizes` gives the levels' (h, w) in token order.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn ms_deform_attn(
    value: &Tensor,
    offsets: &Tensor,
    logits: &Tensor,
    sizes: &[(usize, usize)],
) -> Result<Tensor> {
    let op = "ms_deform_attn";
    let s: usize = sizes.iter().map(|(h, w)| h * w).sum();
    let &[b, t, heads, d] = value.shape() else {
        return Err(shape_error(op, "value", "[b, s, heads, d]", value));
    };
    if t != s {
        return Err(shape_error(op, "value", format!("{s} tokens"), value));
    }
    let &[.., points, 2] = offsets.shape() else {
        return Err(shape_error(op, "offsets", "[b, s, heads, levels, points, 2]", offsets));
    };
    expect_shape(op, "offsets", offsets, &[b, s, heads, sizes.len(), points, 2])?;
    expect_shape(op, "logits", logits, &[b, s, heads, sizes.len() * points])?;
    let size = MsDeformAttn { b, levels: sizes, heads, d, points };
    // Coordinates are f32 whatever the type of the features.
    let exact = value.dtype().of_sums();
    let (offsets, logits) = (cast(offsets, exact)?, cast(logits, exact)?);
    let mut out = value.empty_like(&[b, s, heads * d])?;
    let mut attn = logits.empty_like(logits.shape())?;
    kernel!(op, value, T,
        host => {
            let (v, o, l) = (value.data::<T>()?, offsets.data()?, logits.data()?);
            size.forward(v, o, l, out.data_mut()?, attn.data_mut()?)
        },
        device => {
            let (v, o, l) = (value.view::<T>()?, offsets.view()?, logits.view()?);
            size.forward_gpu(device, v, o, l, out.view_mut()?, attn.view_mut()?)
        },
    )?;
    Ok(record(out, &[value, &offsets, &logits], || Saved {
        levels: size.levels.to_vec(),
        value: value.detach(),
        offsets: offsets.detach(),
        attn,
        to: [value.edge(), offsets.edge(), logits.edge()],
    }))
}

struct Saved {
    levels: Vec<(usize, usize)>,
    value: Tensor,
    offsets: Tensor,
    attn: Tensor,
    to: [Edge; 3],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "ms_deform_attn"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { levels, value, offsets, attn, to } = &*self;
        let size = MsDeformAttn {
            b: value.dim(0),
            levels,
            heads: value.dim(2),
            d: value.dim(3),
            points: offsets.dim(4),
        };
        let like =
            |i: usize, x: &Tensor| to[i].wants().then(|| x.empty_like(x.shape())).transpose();
        let (mut dvalue, mut doffsets) = (like(0, value)?, like(1, offsets)?);
        let mut dlogits = like(2, attn)?;
        kernel!("ms_deform_attn", value, T,
            host => size.backward(
                value.data::<T>()?,
                offsets.data()?,
                attn.data()?,
                dy.data()?,
                dvalue.as_mut().map(Tensor::data_mut).transpose()?,
                doffsets.as_mut().map(Tensor::data_mut).transpose()?,
                dlogits.as_mut().map(Tensor::data_mut).transpose()?,
            ),
            device => size.backward_gpu(
                device,
                value.view::<T>()?,
                offsets.view()?,
                attn.view()?,
                dy.view()?,
                dvalue.as_mut().map(Tensor::view_mut).transpose()?,
                doffsets.as_mut().map(Tensor::view_mut).transpose()?,
                dlogits.as_mut().map(Tensor::view_mut).transpose()?,
            ),
        )?;
        for (to, d) in to.iter().zip([dvalue, doffsets, dlogits]) {
            if let Some(d) = d {
                grads.add(to, d)?;
            }
        }
        Ok(())
    }
}
