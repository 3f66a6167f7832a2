//! Softmax attention, packed or with separate operands; the n×n matrix is never stored.

use dressage_kernels::ops::attention::{
    self, Attention, PackedAttention, PackedBackward, PackedForward, WIDTHS,
};

use super::row_width::{row_width, row_width_scaled};
use super::{expect_shape, reshape, shape_error};
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, forbid_gradient, record};

/// Self-attention of `qkv` `[b, t, 3, heads, d]`: `softmax(q k^T / √d) v`, `[b, t, heads * d]`.
/// Saves `qkv` and the log-sum-exp of each row. On a device, heads whose width has no kernel are
/// padded with zeros.
///
/// # Errors
/// Another number of axes; a type without a kernel.
pub fn self_attention(qkv: &Tensor) -> Result<Tensor> {
    let &[b, t, 3, heads, d] = qkv.shape() else {
        return Err(shape_error("self_attention", "qkv", "[b, t, 3, heads, d]", qkv));
    };
    if let Some(width) = widened(qkv, d) {
        let rows = [heads, 3 * heads];
        let wide = row_width_scaled(qkv, width, rows, (width as f64 / d as f64).sqrt())?;
        let out = reshape(&self_attention(&wide)?, &[b, t, heads, width])?;
        return reshape(&row_width(&out, d)?, &[b, t, heads * d]);
    }
    let size = PackedAttention { b, t, heads, d, grid: None };
    let mut out = qkv.empty_like(&[b, t, heads * d])?;
    let mut lse = qkv.empty_sums(&[b, heads, t])?;
    call!(qkv, &size, |M, T| PackedForward::<M, T> {
        rel: None,
        qkv: M::read(qkv)?,
        out: M::write(&mut out)?,
        lse: M::write(&mut lse)?,
    })?;
    let saved = out.device().map(|_| out.detach());
    Ok(record(out, &[qkv], || Packed { size, qkv: qkv.detach(), out: saved, lse, to: qkv.edge() }))
}

struct Packed {
    size: PackedAttention,
    qkv: Tensor,
    /// The result; only on a device, whose backward kernel reads it.
    out: Option<Tensor>,
    lse: Tensor,
    to: Edge,
}

impl Backward for Packed {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Packed { size, qkv, out, lse, to } = &*self;
        let mut dqkv = qkv.empty_like(qkv.shape())?;
        call!(qkv, size, |M, T| PackedBackward::<M, T> {
            rel: None,
            qkv: M::read(qkv)?,
            out: M::read_if(out.as_ref())?,
            lse: M::read(lse)?,
            dout: M::read(&dy)?,
            dqkv: M::write(&mut dqkv)?,
            drel: None,
        })?;
        grads.add(to, dqkv)
    }
}

/// Attention of queries `q` `[b, nq, heads * d]` to `k`, `v` `[b, nk, heads * d]`. Keys with
/// `blocked` `[b, nq, nk]` = 1 (u8, the same for all heads) are masked out. On a device, heads
/// whose width has no kernel are padded with zeros.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
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
    let d = c / heads;
    if let Some(width) = widened(q, d) {
        // The kernel divides by the root of the padded width.
        let q = to_heads(q, [heads, d, width], (width as f64 / d as f64).sqrt())?;
        let [k, v] = [k, v].map(|x| to_heads(x, [heads, d, width], 1.0));
        let out = attention(&q, &k?, &v?, heads, blocked)?;
        let out = reshape(&out, &[b, nq, heads, width])?;
        return reshape(&row_width(&out, d)?, &[b, nq, c]);
    }
    let size = Attention { b, heads, d, nq, nk, masked: blocked.is_some() };
    let mut out = q.empty_like(q.shape())?;
    let mut lse = q.empty_sums(&[b, heads, nq])?;
    call!(q, &size, |M, T| attention::Forward::<M, T> {
        q: M::read(q)?,
        k: M::read(k)?,
        v: M::read(v)?,
        blocked: M::read_if(blocked)?,
        out: M::write(&mut out)?,
        lse: M::write(&mut lse)?,
    })?;
    let saved = out.device().map(|_| out.detach());
    let qkv = [q, k, v];
    Ok(record(out, &qkv, || Separate {
        size,
        qkv: qkv.map(Tensor::detach),
        blocked: blocked.cloned(),
        out: saved,
        lse,
        to: qkv.map(Tensor::edge),
    }))
}

/// The padded width of device kernels for heads of `d` channels; `None` if `d` needs no padding.
fn widened(x: &Tensor, d: usize) -> Option<usize> {
    x.device()?;
    WIDTHS.iter().copied().find(|&width| width >= d).filter(|&width| width != d)
}

/// Pads the heads of `x` `[b, n, heads * d]` to `width` channels and multiplies by `factor`.
fn to_heads(x: &Tensor, [heads, d, width]: [usize; 3], factor: f64) -> Result<Tensor> {
    let apart = reshape(x, &[x.dim(0), x.dim(1), heads, d])?;
    let wide = row_width_scaled(&apart, width, [1, 1], factor)?;
    reshape(&wide, &[x.dim(0), x.dim(1), heads * width])
}

struct Separate {
    size: Attention,
    qkv: [Tensor; 3],
    blocked: Option<Tensor>,
    /// The result; only on a device, whose backward kernel reads it.
    out: Option<Tensor>,
    lse: Tensor,
    to: [Edge; 3],
}

impl Backward for Separate {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Separate { size, qkv: [q, k, v], blocked, out, lse, to } = &*self;
        let like =
            |i: usize, x: &Tensor| to[i].wants().then(|| x.empty_like(x.shape())).transpose();
        let (mut dq, mut dk, mut dv) = (like(0, q)?, like(1, k)?, like(2, v)?);
        call!(q, size, |M, T| attention::Backward::<M, T> {
            q: M::read(q)?,
            k: M::read(k)?,
            v: M::read(v)?,
            blocked: M::read_if(blocked.as_ref())?,
            out: M::read_if(out.as_ref())?,
            lse: M::read(lse)?,
            dout: M::read(&dy)?,
            dq: M::write_if(dq.as_mut())?,
            dk: M::write_if(dk.as_mut())?,
            dv: M::write_if(dv.as_mut())?,
        })?;
        for (to, d) in to.iter().zip([dq, dk, dv]) {
            if let Some(d) = d {
                grads.add(to, d)?;
            }
        }
        Ok(())
    }
}
