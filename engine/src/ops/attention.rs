//! Softmax attention, packed and with separate operands; the n×n matrix is never in memory.

use dressage_kernels::attention::Attention;

use super::{expect_shape, shape_error};
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, forbid_gradient, record};

/// Self-attention of `qkv` `[b, t, 3, heads, d]`: `softmax(q k^T / √d) v`, `[b, t, heads * d]`.
/// Saves `qkv` and the log-sum-exp of each row.
///
/// # Errors
/// Another number of axes; a type other than f32 and f64.
pub fn self_attention(qkv: &Tensor) -> Result<Tensor> {
    let &[b, t, 3, heads, d] = qkv.shape() else {
        return Err(shape_error("self_attention", "qkv", "[b, t, 3, heads, d]", qkv));
    };
    let size = Attention { b, heads, d, nq: t, nk: t };
    floats!("self_attention", qkv, T => {
        let mut out = Tensor::empty::<T>(&[b, t, heads * d]);
        let mut lse = Tensor::empty::<T>(&[b, heads, t]);
        size.forward_packed(qkv.data::<T>()?, out.data_mut()?, lse.data_mut()?)?;
        Ok(record(out, &[qkv], || Packed { size, qkv: qkv.detach(), lse, to: qkv.edge() }))
    })
}

struct Packed {
    size: Attention,
    qkv: Tensor,
    lse: Tensor,
    to: Edge,
}

impl Backward for Packed {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("self_attention", dy, T => {
            let mut dqkv = Tensor::empty::<T>(self.qkv.shape());
            let (qkv, lse) = (self.qkv.data::<T>()?, self.lse.data::<T>()?);
            self.size.backward_packed(qkv, lse, dy.data()?, dqkv.data_mut()?)?;
            grads.add(&self.to, dqkv)
        })
    }
}

/// Attention of queries `q` `[b, nq, heads * d]` to `k`, `v` `[b, nk, heads * d]`; keys with
/// `blocked` `[b, nq, nk]` = 1 (u8, the same for all heads) are not seen.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    blocked: Option<&Tensor>,
) -> Result<Tensor> {
    let &[b, nq, c] = q.shape() else {
        return Err(shape_error("attention", "q", "[b, nq, c]", q));
    };
    if heads == 0 || c % heads != 0 {
        return Err(shape_error("attention", "q", format!("channels for {heads} heads"), q));
    }
    let nk = k.dim(1);
    expect_shape("attention", "k", k, &[b, nk, c])?;
    expect_shape("attention", "v", v, &[b, nk, c])?;
    if let Some(blocked) = blocked {
        expect_shape("attention", "blocked", blocked, &[b, nq, nk])?;
        forbid_gradient("attention", "blocked", blocked)?;
    }
    let size = Attention { b, heads, d: c / heads, nq, nk };
    floats!("attention", q, T => forward::<T>(size, [q, k, v], blocked))
}

fn forward<T: Float>(
    size: Attention,
    qkv: [&Tensor; 3],
    blocked: Option<&Tensor>,
) -> Result<Tensor> {
    let mut out = Tensor::empty::<T>(qkv[0].shape());
    let mut lse = Tensor::empty::<T>(&[size.b, size.heads, size.nq]);
    let mask = blocked.map(|m| m.data::<u8>()).transpose()?;
    let [q, k, v] = [qkv[0].data::<T>()?, qkv[1].data::<T>()?, qkv[2].data::<T>()?];
    size.forward(q, k, v, mask, out.data_mut()?, lse.data_mut()?)?;
    Ok(record(out, &qkv, || Separate {
        size,
        qkv: qkv.map(Tensor::detach),
        blocked: blocked.cloned(),
        lse,
        to: qkv.map(Tensor::edge),
    }))
}

struct Separate {
    size: Attention,
    qkv: [Tensor; 3],
    blocked: Option<Tensor>,
    lse: Tensor,
    to: [Edge; 3],
}

impl Backward for Separate {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("attention", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Separate {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let empty = |i: usize| self.to[i].wants().then(|| Tensor::empty::<T>(self.qkv[i].shape()));
        let (mut dq, mut dk, mut dv) = (empty(0), empty(1), empty(2));
        let [q, k, v] = &self.qkv;
        self.size.backward(
            q.data::<T>()?,
            k.data()?,
            v.data()?,
            self.blocked.as_ref().map(|m| m.data::<u8>()).transpose()?,
            self.lse.data()?,
            dy.data()?,
            dq.as_mut().map(|t| t.data_mut()).transpose()?,
            dk.as_mut().map(|t| t.data_mut()).transpose()?,
            dv.as_mut().map(|t| t.data_mut()).transpose()?,
        )?;
        for (to, d) in self.to.iter().zip([dq, dk, dv]) {
            if let Some(d) = d {
                grads.add(to, d)?;
            }
        }
        Ok(())
    }
}
