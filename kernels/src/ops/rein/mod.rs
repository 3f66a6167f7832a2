//! Rein: patch features refined by learnable tokens, as one fused operation.
//!
//! Per patch row, with tokens `T`, values `V = T[1:] W_T + b_T` (computed by the caller once for
//! all images) and `W_f` stored `[out, in]`:
//! ```text
//! z = f T^T / sqrt(c)        S = softmax over the m tokens        lse = ln(sum(exp(z)))
//! X = f + S[:, 1:] V         out = f + s (X W_f^T + b_f)
//! ```
//! Column 0 is dropped after the softmax: token 0 only absorbs weight. With `softmax: false`, both
//! the softmax and `1 / sqrt(c)` are omitted: `S = f T^T`, and `lse` is 0. The first `skip` rows of
//! an image (class and register tokens) pass unchanged.
//!
//! Backward, with `G = dout`:
//! ```text
//! dX0 = G W_f         ds  += sum(X dX0) + b_f . colsum(G)        dX = s dX0
//! dW_f += s G^T X     db_f += s colsum(G)                        (Y itself is never needed)
//! dS  = dX V^T        dV  += S[:, 1:]^T dX
//! dz_j = S_j (dS_j - r) for j >= 1,  dz_0 = -S_0 r,  r = sum_{j >= 1} S_j dS_j
//! df  = G + dX + dz T / sqrt(c)              dT += dz^T f / sqrt(c)
//! ```
//! Token 0 has a gradient although it has no value row.
//! Shapes: `f`, `out`, `df` `[b, skip + n, c]`, `tokens` `[m, c]`, `values` `[m - 1, c]`, `weight`
//! `[c, c]`, `bias` `[c]`, `scale` one element, `lse` `[b, n]`. Saved for the backward pass: `f`,
//! which the caller keeps anyway, and `lse`. Cost: `2 b n c (c + 2 m)` FLOP forward and `4 b n c (c
//! + 3 m)` backward with every gradient (two products with W_f and six with `T` or `V`); memory
//! traffic of one read and one write of `f` forward, of two reads and one write backward.
//!
//! On a GPU: a layer of ViT-L at 512 px, batch 4 (4096 patches, `c` = 1024, `m` = 100) in bf16 is
//! 10.3 GFLOP forward and 22.2 backward; the floor on an H200 (790 TFLOP/s) is 13 and 28 us.
//! The compulsory traffic is 19 and 38 MB (4 and 9 us at 4.3 TB/s). The forward pass is two kernels
//! around one product, which move seven times the bytes of `f`; docs/kernels.md has their lower
//! bounds and limits. Source: Rein, eq. 2-7; spec peft-and-dgss §1-2, backbones §5.1.

mod bounds;
mod checks;
mod cost;
mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

pub use gpu::CHANNELS;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Real, Result, Write};

/// Sizes of a Rein layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rein {
    /// Images.
    pub b: usize,
    /// Leading rows of an image that pass unchanged.
    pub skip: usize,
    /// Patch rows of an image.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Learnable tokens.
    pub m: usize,
    /// Whether scores are scaled by `1 / sqrt(c)` and passed through a softmax.
    pub softmax: bool,
}

impl Operation for Rein {
    const NAME: &'static str = "rein";

    fn check(&self) -> Result<()> {
        if self.m == 0 || self.c == 0 {
            let what = format!("{} tokens of {} channels are empty", self.m, self.c);
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }
}

impl Rein {
    /// Scale of the scores.
    fn score_scale<T: Real>(&self) -> T {
        if self.softmax { T::ONE / T::of(self.c as f64).sqrt() } else { T::ONE }
    }

    /// Elements of the features and of the values.
    fn lengths(&self) -> [usize; 2] {
        [self.b * (self.skip + self.n) * self.c, self.m.saturating_sub(1) * self.c]
    }
}

/// Call that writes `out` and `lse`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Features f, `[b, skip + n, c]`.
    pub f: M::In<'a, T>,
    /// Tokens T, `[m, c]`.
    pub tokens: M::In<'a, T>,
    /// Values V of tokens 1.., `[m - 1, c]`.
    pub values: M::In<'a, T>,
    /// W_f, `[c, c]`, rows are outputs.
    pub weight: M::In<'a, T>,
    /// b_f, `[c]`.
    pub bias: M::In<'a, M::Sum<T>>,
    /// s, one element.
    pub scale: M::In<'a, M::Sum<T>>,
    /// Result, `[b, skip + n, c]`.
    pub out: M::Out<'a, T>,
    /// Log-sum-exp of the scores of each patch, `[b, n]`.
    pub lse: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Rein;

    fn list(&mut self, s: &Rein, w: &mut impl Walk<'a, M>) {
        let [features, values] = s.lengths();
        w.reads("f", &mut self.f, features);
        w.reads("tokens", &mut self.tokens, s.m * s.c);
        w.reads("values", &mut self.values, values);
        w.reads("weight", &mut self.weight, s.c * s.c);
        w.reads("bias", &mut self.bias, s.c);
        w.reads("scale", &mut self.scale, 1);
        w.writes("out", &mut self.out, features);
        w.writes("lse", &mut self.lse, s.b * s.n);
    }
}

/// Call that writes `df` and adds to the other gradients. Those that are left out are not computed.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Features of the forward pass, `[b, skip + n, c]`.
    pub f: M::In<'a, T>,
    /// Tokens T, `[m, c]`.
    pub tokens: M::In<'a, T>,
    /// Values V of tokens 1.., `[m - 1, c]`.
    pub values: M::In<'a, T>,
    /// W_f, `[c, c]`, rows are outputs.
    pub weight: M::In<'a, T>,
    /// b_f, `[c]`.
    pub bias: M::In<'a, M::Sum<T>>,
    /// s, one element.
    pub scale: M::In<'a, M::Sum<T>>,
    /// Log-sum-exp of the forward pass, `[b, n]`.
    pub lse: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[b, skip + n, c]`.
    pub dout: M::In<'a, T>,
    /// Gradient of the features, `[b, skip + n, c]`, with the residual path and the skipped rows.
    pub df: Option<M::Out<'a, T>>,
    /// Gradient of the tokens as keys, `[m, c]`.
    pub dtokens: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the values, `[m - 1, c]`.
    pub dvalues: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of W_f, `[c, c]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of b_f, `[c]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of s, one element.
    pub dscale: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Rein;

    fn list(&mut self, s: &Rein, w: &mut impl Walk<'a, M>) {
        let [features, values] = s.lengths();
        w.reads("f", &mut self.f, features);
        w.reads("tokens", &mut self.tokens, s.m * s.c);
        w.reads("values", &mut self.values, values);
        w.reads("weight", &mut self.weight, s.c * s.c);
        w.reads("bias", &mut self.bias, s.c);
        w.reads("scale", &mut self.scale, 1);
        w.reads("lse", &mut self.lse, s.b * s.n);
        w.reads("dout", &mut self.dout, features);
        w.stores_if("df", &mut self.df, features, Write::Over);
        w.stores_if("dtokens", &mut self.dtokens, s.m * s.c, Write::Add);
        w.stores_if("dvalues", &mut self.dvalues, values, Write::Add);
        w.stores_if("dweight", &mut self.dweight, s.c * s.c, Write::Add);
        w.stores_if("dbias", &mut self.dbias, s.c, Write::Add);
        w.stores_if("dscale", &mut self.dscale, 1, Write::Add);
    }
}
