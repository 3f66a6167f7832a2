//! Gate of a SwiGLU layer.
//!
//! ```text
//! y[j] = silu(x[j]) x[h + j],   silu(u) = u sigmoid(u)        for j < h, per row
//! dx[j]     = dy[j] x[h + j] sigmoid(u) (1 + u (1 - sigmoid(u)))      with u = x[j]
//! dx[h + j] = dy[j] silu(u)
//! ```
//! Shapes: `x`, `dx` `[n, 2h]`, `y`, `dy` `[n, h]`. Saved: `x`. It is memory-bound: `3 n h`
//! elements forward. Source: spec backbones §2.4 (DINOv2-g: the first half of w12 is the gate).
//!
//! On a GPU: `[4100, 2 x 4096]` bf16 (DINOv2-g; four images of 518 px have more) moves 101 MB
//! forward and 168 MB backward. The floor on an H200 (4.3 TB/s) is 23 and 39 us, at about 12
//! and 20 FLOP per element of `y`. A lane handles 8 columns of both halves of a row, a block 32
//! rows (`cuda/vectors.cuh`).

mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swiglu {
    /// Rows.
    pub n: usize,
    /// Width of the output, half of the input width.
    pub h: usize,
}

impl Swiglu {
    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn forward<T: Real>(&self, x: &[T], y: &mut [T]) -> Result<()> {
        check_len("swiglu", "x", x, 2 * self.n * self.h)?;
        check_len("swiglu", "y", y, self.n * self.h)?;
        if dry_run::skip("swiglu") || self.h == 0 {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(x), f32s_mut(y));
        } else {
            reference::forward(self, x, y);
        }
        Ok(())
    }

    /// Writes `dx`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn backward<T: Real>(&self, x: &[T], dy: &[T], dx: &mut [T]) -> Result<()> {
        check_len("swiglu", "x", x, 2 * self.n * self.h)?;
        check_len("swiglu", "dy", dy, self.n * self.h)?;
        check_len("swiglu", "dx", dx, 2 * self.n * self.h)?;
        if dry_run::skip("swiglu") || self.h == 0 {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::backward(self, f32s(x), f32s(dy), f32s_mut(dx));
        } else {
            reference::backward(self, x, dy, dx);
        }
        Ok(())
    }
}
