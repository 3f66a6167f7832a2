//! Token link: the queries of all layers combined into one vector per token.
//!
//! ```text
//! out[i, 3 k]     = max over layers of q[:, i, k]
//! out[i, 3 k + 1] = mean over layers
//! out[i, 3 k + 2] = the last layer
//! ```
//! Backward: the gradient of the maximum goes to the first maximal layer, that of the mean to all
//! layers in equal parts, that of the last layer to the last layer.
//! Shapes: `q`, `dq` `[layers, m, c]`; `out`, `dout` `[m, 3 c]`, interleaved as the released merge
//! weights require. Saved for the backward pass: `q`. Cost: one read of `q`; it takes a few
//! microseconds per step, so all types share one implementation.
//!
//! On a GPU: one thread per element of `[m, c]` loops over the layers. 24 layers of 100 x 256 in
//! bf16 and their vectors are 1.4 MB, 0.3 us at 4.3 TB/s, twice that backward, so the launch
//! dominates.
//!
//! Source: Rein, eq. 9-10; spec backbones §5.1, peft-and-dgss §1.

mod gpu;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{KernelError, Real, Result, check_len, dry_run};

const OP: &str = "token_link";

/// Sizes of a token link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLink {
    /// Layers.
    pub layers: usize,
    /// Tokens per layer.
    pub m: usize,
    /// Channels per query.
    pub c: usize,
}

impl TokenLink {
    /// Writes `out`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or no layer.
    pub fn forward<T: Real>(&self, q: &[T], out: &mut [T]) -> Result<()> {
        self.check(q, "out", out)?;
        if dry_run::skip(OP) {
            return Ok(());
        }
        let n = self.m * self.c;
        for (i, out) in out.chunks_exact_mut(3).enumerate() {
            let layers = || (0..self.layers).map(|l| q[l * n + i]);
            out[0] = layers().fold(q[i], T::max);
            out[1] = layers().sum::<T>() / T::of(self.layers as f64);
            out[2] = q[(self.layers - 1) * n + i];
        }
        Ok(())
    }

    /// Writes `dq`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, or no layer.
    pub fn backward<T: Real>(&self, q: &[T], dout: &[T], dq: &mut [T]) -> Result<()> {
        self.check(q, "dout", dout)?;
        check_len(OP, "dq", dq, q.len())?;
        if dry_run::skip(OP) {
            return Ok(());
        }
        let n = self.m * self.c;
        for (i, d) in dout.chunks_exact(3).enumerate() {
            let share = d[1] / T::of(self.layers as f64);
            let mut first = 0;
            for l in 0..self.layers {
                dq[l * n + i] = share;
                if q[l * n + i] > q[first * n + i] {
                    first = l;
                }
            }
            dq[first * n + i] += d[0];
            dq[(self.layers - 1) * n + i] += d[2];
        }
        Ok(())
    }

    fn check<T>(&self, q: &[T], name: &'static str, out: &[T]) -> Result<()> {
        if self.layers == 0 {
            let what = "there are no layers".to_string();
            return Err(KernelError::Size { op: OP, what });
        }
        check_len(OP, "q", q, self.layers * self.m * self.c)?;
        check_len(OP, name, out, 3 * self.m * self.c)
    }
}
