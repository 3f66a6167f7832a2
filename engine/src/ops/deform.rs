//! Multi-scale deformable attention.

use dressage_kernels::ms_deform_attn::MsDeformAttn;

use super::{expect_shape, shape_error};
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// Samples `value` `[b, s, heads, d]` at `offsets` `[b, s, heads, levels, points, 2]` (pixels of
/// the sampled level, xy) around each token's own place, weighted by the softmax of `logits` `[b,
/// s, heads, levels * points]`; result `[b, s, heads * d]`. `sizes` are the levels' (h, w) in
/// token order.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
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
    floats!(op, value, T => forward::<T>(
        MsDeformAttn { b, levels: sizes, heads, d, points }, value, offsets, logits,
    ))
}

fn forward<T: Float>(
    size: MsDeformAttn<'_>,
    value: &Tensor,
    offsets: &Tensor,
    logits: &Tensor,
) -> Result<Tensor> {
    let mut out = Tensor::empty::<T>(&[size.b, size.tokens(), size.heads * size.d]);
    let mut attn = Tensor::empty::<T>(logits.shape());
    let (v, o, l) = (value.data::<T>()?, offsets.data::<T>()?, logits.data::<T>()?);
    size.forward(v, o, l, out.data_mut()?, attn.data_mut()?)?;
    Ok(record(out, &[value, offsets, logits], || Saved {
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
        floats!("ms_deform_attn", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Saved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let size = MsDeformAttn {
            b: self.value.dim(0),
            levels: &self.levels,
            heads: self.value.dim(2),
            d: self.value.dim(3),
            points: self.offsets.dim(4),
        };
        let of =
            |edge: &Edge, like: &Tensor| edge.wants().then(|| Tensor::empty::<T>(like.shape()));
        let [to_value, to_offsets, to_logits] = &self.to;
        let mut dvalue = of(to_value, &self.value);
        let mut doffsets = of(to_offsets, &self.offsets);
        let mut dlogits = of(to_logits, &self.attn);
        size.backward(
            self.value.data::<T>()?,
            self.offsets.data()?,
            self.attn.data()?,
            dy.data()?,
            dvalue.as_mut().map(|t| t.data_mut()).transpose()?,
            doffsets.as_mut().map(|t| t.data_mut()).transpose()?,
            dlogits.as_mut().map(|t| t.data_mut()).transpose()?,
        )?;
        for (to, d) in self.to.iter().zip([dvalue, doffsets, dlogits]) {
            if let Some(d) = d {
                grads.add(to, d)?;
            }
        }
        Ok(())
    }
}
