//! Rein's refinement of features and the link from tokens to queries.

use dressage_kernels::ops::rein::{self as op, CHANNELS, Rein};
use dressage_kernels::ops::token_link::{self, TokenLink};

use super::row_width::{row_width, row_width_scaled};
use super::{expect_shape, reshape, shape_error};
use crate::call::{Place, call};
use crate::{Backward, Edge, Gradients, Result, Tensor, record};

/// Parameters that refine the features after one block.
pub struct ReinParts<'a> {
    /// T `[m, c]`.
    pub tokens: Tensor,
    /// `T[1:] W_T + b_T`, `[m - 1, c]`.
    pub values: Tensor,
    /// W_f `[c, c]`, rows are outputs.
    pub weight: &'a Tensor,
    /// b_f `[c]`.
    pub bias: &'a Tensor,
    /// s, a scalar.
    pub scale: &'a Tensor,
}

impl ReinParts<'_> {
    fn all(&self) -> [&Tensor; 5] {
        [&self.tokens, &self.values, self.weight, self.bias, self.scale]
    }
}

/// Computes `f + s (X W_f^T + b_f)` with `X = f + S[:, 1:] V`, `S = softmax(f T^T / √c)` (Rein, eq.
/// 2 to 7).
///
/// f is `[b, skip + n, c]`. The first `skip` rows of each image pass unchanged. Without `softmax`,
/// `S = f T^T`. Saves f and the log-sum-exp of each row. On a device, channel counts without a
/// kernel are padded with zeros.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn rein(f: &Tensor, parts: &ReinParts<'_>, skip: usize, softmax: bool) -> Result<Tensor> {
    let &[b, t, c] = f.shape() else {
        return Err(shape_error("rein", "f", "[b, t, c]", f));
    };
    if t < skip {
        return Err(shape_error("rein", "f", format!("at least {skip} rows an image"), f));
    }
    let m = parts.tokens.dim(0);
    expect_shape("rein", "tokens", &parts.tokens, &[m, c])?;
    expect_shape("rein", "values", &parts.values, &[m.saturating_sub(1), c])?;
    expect_shape("rein", "weight", parts.weight, &[c, c])?;
    expect_shape("rein", "bias", parts.bias, &[c])?;
    expect_shape("rein", "scale", parts.scale, &[])?;
    if f.device().is_some() && !c.is_multiple_of(CHANNELS) {
        return widened(f, parts, skip, softmax);
    }
    let size = Rein { b, skip, n: t - skip, c, m, softmax };
    let mut out = f.empty_like(f.shape())?;
    let mut lse = f.empty_sums(&[b, size.n])?;
    let saved = parts.all().map(Tensor::detach);
    let [tokens, values, weight, bias, scale] = &saved;
    call!(f, &size, |M, T| op::Forward::<M, T> {
        f: M::read(f)?,
        tokens: M::read(tokens)?,
        values: M::read(values)?,
        weight: M::read(weight)?,
        bias: M::read(bias)?,
        scale: M::read(scale)?,
        out: M::write(&mut out)?,
        lse: M::write(&mut lse)?,
    })?;
    let [tokens, values, weight, bias, scale] = parts.all();
    Ok(record(out, &[f, tokens, values, weight, bias, scale], || Saved {
        size,
        f: f.detach(),
        parts: saved,
        lse,
        to_f: f.edge(),
        to: parts.all().map(Tensor::edge),
    }))
}

/// [`rein`] with channels padded to a multiple of [`CHANNELS`].
fn widened(f: &Tensor, parts: &ReinParts<'_>, skip: usize, softmax: bool) -> Result<Tensor> {
    let c = f.last_dim();
    let width = c.next_multiple_of(CHANNELS);
    // The kernel divides scores by the root of the padded width.
    let factor = if softmax { (width as f64 / c as f64).sqrt() } else { 1.0 };
    // The zeros appended in memory become the missing rows of W_f.
    let weight = reshape(&row_width(parts.weight, width)?, &[1, c * width])?;
    let weight = reshape(&row_width(&weight, width * width)?, &[width, width])?;
    let parts = ReinParts {
        tokens: row_width_scaled(&parts.tokens, width, [1, 1], factor)?,
        values: row_width(&parts.values, width)?,
        weight: &weight,
        bias: &row_width(parts.bias, width)?,
        scale: parts.scale,
    };
    row_width(&rein(&row_width(f, width)?, &parts, skip, softmax)?, c)
}

struct Saved {
    size: Rein,
    f: Tensor,
    /// Tokens, values, weight, bias, scale.
    parts: [Tensor; 5],
    lse: Tensor,
    to_f: Edge,
    to: [Edge; 5],
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "rein"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let mut df = match self.to_f.wants() {
            true => Some(self.f.empty_like(self.f.shape())?),
            false => None,
        };
        if dy.device().is_some() {
            // The kernels add to the gradients that other layers left for the shared parameters.
            let mut sums = |sums: [Option<&mut Tensor>; 5]| self.kernel(&dy, df.as_mut(), sums);
            match self.to.iter().any(Edge::wants) {
                true => grads.accumulate_all(self.to.each_ref(), sums)?,
                false => sums([const { None }; 5])?,
            }
        } else {
            // One kernel call computes all of them. Shared parameters then cost one addition each.
            let mut sums: [Option<Tensor>; 5] = [const { None }; 5];
            for ((sum, to), part) in sums.iter_mut().zip(&self.to).zip(&self.parts) {
                let zeros = || Tensor::zeros_on(None, part.dtype().of_sums(), part.shape());
                *sum = to.wants().then(zeros).transpose()?;
            }
            self.kernel(&dy, df.as_mut(), sums.each_mut().map(Option::as_mut))?;
            for (to, sum) in self.to.iter().zip(sums) {
                if let Some(sum) = sum {
                    grads.add(to, sum)?;
                }
            }
        }
        match df {
            Some(df) => grads.add(&self.to_f, df),
            None => Ok(()),
        }
    }
}

impl Saved {
    fn kernel(
        &self,
        dy: &Tensor,
        df: Option<&mut Tensor>,
        sums: [Option<&mut Tensor>; 5],
    ) -> Result<()> {
        let Saved { size, f, parts: [tokens, values, weight, bias, scale], lse, .. } = self;
        let [dtokens, dvalues, dweight, dbias, dscale] = sums;
        call!(f, size, |M, T| op::Backward::<M, T> {
            f: M::read(f)?,
            tokens: M::read(tokens)?,
            values: M::read(values)?,
            weight: M::read(weight)?,
            bias: M::read(bias)?,
            scale: M::read(scale)?,
            lse: M::read(lse)?,
            dout: M::read(dy)?,
            df: M::write_if(df)?,
            dtokens: M::write_if(dtokens)?,
            dvalues: M::write_if(dvalues)?,
            dweight: M::write_if(dweight)?,
            dbias: M::write_if(dbias)?,
            dscale: M::write_if(dscale)?,
        })
    }
}

/// Maximum, mean and last layer of `q` `[layers, m, c]`, interleaved per channel: `[m, 3c]` (Rein,
/// eq. 9). The maximum's gradient goes to the first layer that has it.
///
/// # Errors
/// Another number of axes; a type without a kernel.
pub fn token_link(q: &Tensor) -> Result<Tensor> {
    let &[layers, m, c] = q.shape() else {
        return Err(shape_error("token_link", "q", "[layers, m, c]", q));
    };
    let size = TokenLink { layers, m, c };
    let mut y = q.empty_like(&[m, 3 * c])?;
    call!(q, &size, |M, T| token_link::Forward::<M, T> { q: M::read(q)?, out: M::write(&mut y)? })?;
    Ok(record(y, &[q], || Link { size, q: q.detach(), to: q.edge() }))
}

struct Link {
    size: TokenLink,
    q: Tensor,
    to: Edge,
}

impl Backward for Link {
    fn name(&self) -> &'static str {
        "token_link"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Link { size, q, to } = &*self;
        let mut dq = q.empty_like(q.shape())?;
        call!(q, size, |M, T| token_link::Backward::<M, T> {
            q: M::read(q)?,
            dout: M::read(&dy)?,
            dq: M::write(&mut dq)?,
        })?;
        grads.add(to, dq)
    }
}
