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

mod cost;
mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use gpu::{CHANNELS, GradientsGpu, WeightsGpu};

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

const OP: &str = "rein";

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

/// Inputs of a Rein layer other than the features.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a, T> {
    /// Tokens T, `[m, c]`.
    pub tokens: &'a [T],
    /// Values V of tokens 1.., `[m - 1, c]`.
    pub values: &'a [T],
    /// W_f, `[c, c]`, rows are outputs.
    pub weight: &'a [T],
    /// b_f, `[c]`.
    pub bias: &'a [T],
    /// s, one element.
    pub scale: &'a [T],
}

/// Gradients of a Rein layer; those that are `None` are not computed. `df` is overwritten, the
/// others are added to.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Gradient of the features, `[b, skip + n, c]`, with the residual path and the skipped rows.
    pub df: Option<&'a mut [T]>,
    /// Gradient of the tokens as keys, `[m, c]`.
    pub dtokens: Option<&'a mut [T]>,
    /// Gradient of the values, `[m - 1, c]`.
    pub dvalues: Option<&'a mut [T]>,
    /// Gradient of W_f, `[c, c]`.
    pub dweight: Option<&'a mut [T]>,
    /// Gradient of b_f, `[c]`.
    pub dbias: Option<&'a mut [T]>,
    /// Gradient of s, one element.
    pub dscale: Option<&'a mut [T]>,
}

impl<T> Default for Gradients<'_, T> {
    fn default() -> Self {
        let (df, dtokens, dvalues) = (None, None, None);
        Self { df, dtokens, dvalues, dweight: None, dbias: None, dscale: None }
    }
}

impl Rein {
    /// Writes `out` and `lse`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or no token or channel at all.
    pub fn forward<T: Real>(
        &self,
        f: &[T],
        w: Weights<'_, T>,
        out: &mut [T],
        lse: &mut [T],
    ) -> Result<()> {
        self.check(f, &w)?;
        check_len(OP, "out", out, f.len())?;
        check_len(OP, "lse", lse, self.b * self.n)?;
        if dry_run::skip_with(OP, || cost::forward(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(f), w.f32(), f32s_mut(out), f32s_mut(lse));
        } else {
            reference::forward(self, f, w, out, lse);
        }
        Ok(())
    }

    /// Writes `df` and adds to the other gradients, as far as they are requested.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or no token or channel at all.
    pub fn backward<T: Real>(
        &self,
        f: &[T],
        w: Weights<'_, T>,
        lse: &[T],
        dout: &[T],
        d: Gradients<'_, T>,
    ) -> Result<()> {
        self.check(f, &w)?;
        check_len(OP, "lse", lse, self.b * self.n)?;
        check_len(OP, "dout", dout, f.len())?;
        for (name, d, len) in [
            ("df", &d.df, f.len()),
            ("dtokens", &d.dtokens, w.tokens.len()),
            ("dvalues", &d.dvalues, w.values.len()),
            ("dweight", &d.dweight, w.weight.len()),
            ("dbias", &d.dbias, self.c),
            ("dscale", &d.dscale, 1),
        ] {
            if let Some(d) = d {
                check_len(OP, name, d, len)?;
            }
        }
        if dry_run::skip_with(OP, || cost::backward(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::backward(self, f32s(f), w.f32(), f32s(lse), f32s(dout), d.f32());
        } else {
            reference::backward(self, f, w, lse, dout, d);
        }
        Ok(())
    }

    fn check<T: Real>(&self, f: &[T], w: &Weights<'_, T>) -> Result<()> {
        if self.m == 0 || self.c == 0 {
            let what = format!("{} tokens of {} channels are empty", self.m, self.c);
            return Err(KernelError::Size { op: OP, what });
        }
        check_len(OP, "f", f, self.b * (self.skip + self.n) * self.c)?;
        check_len(OP, "tokens", w.tokens, self.m * self.c)?;
        check_len(OP, "values", w.values, (self.m - 1) * self.c)?;
        check_len(OP, "weight", w.weight, self.c * self.c)?;
        check_len(OP, "bias", w.bias, self.c)?;
        check_len(OP, "scale", w.scale, 1)
    }

    /// Scale of the scores.
    fn score_scale<T: Real>(&self) -> T {
        if self.softmax { T::ONE / T::of(self.c as f64).sqrt() } else { T::ONE }
    }
}

impl<'a, T: Real> Weights<'a, T> {
    fn f32(self) -> Weights<'a, f32> {
        Weights {
            tokens: f32s(self.tokens),
            values: f32s(self.values),
            weight: f32s(self.weight),
            bias: f32s(self.bias),
            scale: f32s(self.scale),
        }
    }
}

impl<'a, T: Real> Gradients<'a, T> {
    fn f32(self) -> Gradients<'a, f32> {
        Gradients {
            df: self.df.map(f32s_mut),
            dtokens: self.dtokens.map(f32s_mut),
            dvalues: self.dvalues.map(f32s_mut),
            dweight: self.dweight.map(f32s_mut),
            dbias: self.dbias.map(f32s_mut),
            dscale: self.dscale.map(f32s_mut),
        }
    }
}
