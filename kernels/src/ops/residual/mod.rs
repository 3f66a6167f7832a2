//! Residual connection with an optional layer scale.
//!
//! ```text
//! y[n, c] = x[n, c] + gamma[c] * r[n, c]          gamma left out: 1
//! ```
//! Backward:
//! ```text
//! dx = dy        dr = dy * gamma        dgamma[c] += sum_n dy[n, c] r[n, c]
//! ```
//! `dx` equals `dy`, so no function computes it: the caller passes `dy` on. Without `gamma` the
//! same holds for `dr`.
//!
//! Shapes: `x`, `r`, `y`, `dy`, `dr` are `[n, c]`; `gamma`, `dgamma` `[c]`. Saved for the backward
//! pass: `r`, only if `gamma` is trained.
//! Cost: two FLOP per element forward, one for `dr`, two for `dgamma` (a bias adds one to the first
//! and the last); two reads and one write of `[n, c]`, so it is memory-bound.
//!
//! On a GPU the bias of the previous product can be fused, `y = x + gamma (r + bias)`, which saves
//! a pass. `[4100, 1024]` bf16 moves 25 MB forward and 17 MB each for `dr` and `dgamma`; the lower
//! bound on an H200 (4.3 TB/s) is 6 and 4 us. A lane handles 8 columns, so `gamma` and `bias` are
//! loaded once for the four rows of a warp (`cuda/vectors.cuh`). `dgamma` takes two passes in a
//! fixed order (`cuda/columns.cuh`).
//!
//! Source: spec backbones §2.2 (the LayerScale of DINOv2).

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
pub mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a residual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residual {
    /// Rows.
    pub n: usize,
    /// Channels.
    pub c: usize,
}

impl Residual {
    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        r: &[T],
        gamma: Option<&[T]>,
        y: &mut [T],
    ) -> Result<()> {
        check_len("residual", "x", x, self.n * self.c)?;
        check_len("residual", "r", r, self.n * self.c)?;
        check_len("residual", "y", y, self.n * self.c)?;
        if let Some(gamma) = gamma {
            check_len("residual", "gamma", gamma, self.c)?;
        }
        if dry_run::skip("residual") {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(x), f32s(r), gamma.map(f32s), f32s_mut(y));
        } else {
            reference::forward(self, x, r, gamma, y);
        }
        Ok(())
    }

    /// Writes `dr` and adds to `dgamma`; each is optional. Only `dgamma` needs `r`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; `dgamma` without `r`.
    pub fn backward<T: Real>(
        &self,
        r: Option<&[T]>,
        gamma: Option<&[T]>,
        dy: &[T],
        dr: Option<&mut [T]>,
        dgamma: Option<&mut [T]>,
    ) -> Result<()> {
        check_len("residual", "dy", dy, self.n * self.c)?;
        if let Some(gamma) = gamma {
            check_len("residual", "gamma", gamma, self.c)?;
        }
        if let Some(dr) = dr {
            check_len("residual", "dr", dr, self.n * self.c)?;
            if dry_run::skip("residual") {
                // Counted only.
            } else if T::IS_F32 {
                cpu::dr(self, gamma.map(f32s), f32s(dy), f32s_mut(dr));
            } else {
                reference::dr(self, gamma, dy, dr);
            }
        }
        if let Some(dgamma) = dgamma {
            check_len("residual", "dgamma", dgamma, self.c)?;
            let Some(r) = r else {
                let what = "the gradient of gamma needs r".into();
                return Err(KernelError::Size { op: "residual", what });
            };
            check_len("residual", "r", r, self.n * self.c)?;
            if dry_run::skip("residual") {
                // Counted only.
            } else if T::IS_F32 {
                cpu::dgamma(self, f32s(r), f32s(dy), f32s_mut(dgamma));
            } else {
                reference::dgamma(self, r, dy, dgamma);
            }
        }
        Ok(())
    }
}
