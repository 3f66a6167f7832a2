//! Rein's refinement of features and the link from tokens to queries.

use dressage_kernels::rein::{Gradients as Parts, Rein, Weights};
use dressage_kernels::token_link::TokenLink;

use super::{expect_shape, shape_error};
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, record};

/// What refines the features after one block.
pub struct ReinParts<'a> {
    /// T `[m, c]`.
    pub tokens: Tensor,
    /// T[1:] W_T + b_T, `[m - 1, c]`.
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

/// `f + s (X W_f^T + b_f)` with `X = f + S[:, 1:] V`, `S = softmax(f T^T / √c)` for all rows of f
/// `[b, skip + n, c]` but the first `skip` of each image, which pass unchanged (Rein, eq. 2 to 7).
/// Without `softmax`, `S = f T^T`. Saves f and the log-sum-exp of each row.
///
/// # Errors
/// Shapes that do not fit; a type other than f32 and f64.
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
    let size = Rein { b, skip, n: t - skip, c, m, softmax };
    floats!("rein", f, T => forward::<T>(size, f, parts))
}

fn forward<T: Float>(size: Rein, f: &Tensor, parts: &ReinParts<'_>) -> Result<Tensor> {
    let mut out = Tensor::empty::<T>(f.shape());
    let mut lse = Tensor::empty::<T>(&[size.b, size.n]);
    let saved = parts.all().map(Tensor::detach);
    size.forward(f.data::<T>()?, weights(&saved)?, out.data_mut()?, lse.data_mut()?)?;
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

fn weights<T: Float>(parts: &[Tensor; 5]) -> Result<Weights<'_, T>> {
    let [tokens, values, weight, bias, scale] = parts;
    Ok(Weights {
        tokens: tokens.data()?,
        values: values.data()?,
        weight: weight.data()?,
        bias: bias.data()?,
        scale: scale.data()?,
    })
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
        floats!("rein", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Saved {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let mut df = self.to_f.wants().then(|| Tensor::empty::<T>(self.f.shape()));
        // One kernel call fills all of them; shared parameters then cost one addition each.
        let mut sums: Vec<Option<Tensor>> = Vec::new();
        for (to, part) in self.to.iter().zip(&self.parts) {
            sums.push(to.wants().then(|| Tensor::zeros(T::DTYPE, part.shape())));
        }
        let mut slices = sums.iter_mut().map(|t| t.as_mut().map(|t| t.data_mut::<T>()).transpose());
        let mut next = || slices.next().transpose().map(Option::flatten);
        let gradients = Parts {
            df: df.as_mut().map(|t| t.data_mut()).transpose()?,
            dtokens: next()?,
            dvalues: next()?,
            dweight: next()?,
            dbias: next()?,
            dscale: next()?,
        };
        let (f, lse) = (self.f.data::<T>()?, self.lse.data::<T>()?);
        self.size.backward(f, weights(&self.parts)?, lse, dy.data()?, gradients)?;
        for (to, sum) in self.to.iter().zip(sums) {
            if let Some(sum) = sum {
                grads.add(to, sum)?;
            }
        }
        match df {
            Some(df) => grads.add(&self.to_f, df),
            None => Ok(()),
        }
    }
}

/// Maximum, mean and last layer of `q` `[layers, m, c]`, interleaved per channel: `[m, 3c]` (Rein,
/// eq. 9). The maximum's gradient goes to the first layer that has it.
///
/// # Errors
/// Another number of axes; a type other than f32 and f64.
pub fn token_link(q: &Tensor) -> Result<Tensor> {
    let &[layers, m, c] = q.shape() else {
        return Err(shape_error("token_link", "q", "[layers, m, c]", q));
    };
    let size = TokenLink { layers, m, c };
    floats!("token_link", q, T => {
        let mut y = Tensor::empty::<T>(&[m, 3 * c]);
        size.forward(q.data::<T>()?, y.data_mut()?)?;
        Ok(record(y, &[q], || Link { size, q: q.detach(), to: q.edge() }))
    })
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
        floats!("token_link", dy, T => {
            let mut dq = Tensor::empty::<T>(self.q.shape());
            self.size.backward(self.q.data::<T>()?, dy.data()?, dq.data_mut()?)?;
            grads.add(&self.to, dq)
        })
    }
}
