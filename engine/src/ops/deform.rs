//! Multi-scale deformable attention.

use dressage_kernels::ops::ms_deform_attn::{self, MsDeformAttn};

use super::{cast, expect_shape, shape_error};
use crate::call::{Place, call};
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
    let size = MsDeformAttn { b, levels: sizes.to_vec(), heads, d, points };
    // Coordinates are f32 whatever the type of the features.
    let exact = value.dtype().of_sums();
    let (offsets, logits) = (cast(offsets, exact)?, cast(logits, exact)?);
    let mut out = value.empty_like(&[b, s, heads * d])?;
    let mut attn = logits.empty_like(logits.shape())?;
    call!(value, &size, |M, T| ms_deform_attn::Forward::<M, T> {
        value: M::read(value)?,
        offsets: M::read(&offsets)?,
        logits: M::read(&logits)?,
        out: M::write(&mut out)?,
        attn: M::write(&mut attn)?,
    })?;
    Ok(record(out, &[value, &offsets, &logits], || Saved {
        size,
        value: value.detach(),
        offsets: offsets.detach(),
        attn,
        to: [value.edge(), offsets.edge(), logits.edge()],
    }))
}

struct Saved {
    size: MsDeformAttn,
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
        let Saved { size, value, offsets, attn, to } = &*self;
        let like =
            |i: usize, x: &Tensor| to[i].wants().then(|| x.empty_like(x.shape())).transpose();
        let (mut dvalue, mut doffsets) = (like(0, value)?, like(1, offsets)?);
        let mut dlogits = like(2, attn)?;
        call!(value, size, |M, T| ms_deform_attn::Backward::<M, T> {
            value: M::read(value)?,
            offsets: M::read(offsets)?,
            attn: M::read(attn)?,
            dout: M::read(&dy)?,
            dvalue: M::write_if(dvalue.as_mut())?,
            doffsets: M::write_if(doffsets.as_mut())?,
            dlogits: M::write_if(dlogits.as_mut())?,
        })?;
        for (to, d) in to.iter().zip([dvalue, doffsets, dlogits]) {
            if let Some(d) = d {
                grads.add(to, d)?;
            }
        }
        Ok(())
    }
}
