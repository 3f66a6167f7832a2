//! Softmax over the last axis.
//!
//! ```text
//! y[j]  = exp(x[j] - max x) / sum_j exp(x[j] - max x)        per row
//! dx[j] = y[j] (dy[j] - sum_j y[j] dy[j])
//! ```
//! Shapes: all `[n, c]`. Saved for the backward pass: `y`. It is used for class probabilities;
//! attention has its own softmax, which never stores a whole row.
//! Cost: one read and one write forward, two reads and one write backward, if a row stays in the
//! cache between its three passes (two backward).
//!
//! On a GPU: `[400, 20]` logits are 32 KB, so the launch dominates. `[4096, 4096]` in bf16 moves 67
//! MB forward and 101 MB backward; the floor on an H200 (4.3 TB/s) is 16 and 23 us. A warp
//! handles one row and passes over it three times, the second and third time in the L1 cache.

mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{Real, Result, check_len, dry_run, f32s, f32s_mut};

const OP: &str = "softmax";

/// Sizes of a softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// Rows.
    pub n: usize,
    /// Elements per row.
    pub c: usize,
}

impl Softmax {
    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn forward<T: Real>(&self, x: &[T], y: &mut [T]) -> Result<()> {
        check_len(OP, "x", x, self.n * self.c)?;
        check_len(OP, "y", y, self.n * self.c)?;
        if dry_run::skip(OP) || self.c == 0 {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(x), f32s_mut(y));
        } else {
            reference::forward(self, x, y);
        }
        Ok(())
    }

    /// Writes `dx`, from the result `y` of the forward pass.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn backward<T: Real>(&self, y: &[T], dy: &[T], dx: &mut [T]) -> Result<()> {
        check_len(OP, "y", y, self.n * self.c)?;
        check_len(OP, "dy", dy, self.n * self.c)?;
        check_len(OP, "dx", dx, self.n * self.c)?;
        if dry_run::skip(OP) || self.c == 0 {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::backward(self, f32s(y), f32s(dy), f32s_mut(dx));
        } else {
            reference::backward(self, y, dy, dx);
        }
        Ok(())
    }
}
