//! Linear layer: a product with a weight that has one row per output, plus a bias.
//!
//! ```text
//! y[n, m] = sum_k x[n, k] weight[m, k] + bias[m]
//! ```
//! Backward:
//! ```text
//! dx[n, k] = sum_m dy[n, m] weight[m, k]
//! dweight[m, k] += sum_n dy[n, m] x[n, k]        dbias[m] += sum_n dy[n, m]
//! ```
//! Saved for the backward pass: `x`, only if the weight is trained; the backward of a frozen layer
//! is one product.
//!
//! Cost: `2 n m k` FLOP forward and for each of `dx` and `dweight`.
//!
//! The bias is added while a tile of the result is stored. Where the product is computed by the
//! `gemm` crate, the bias costs one write: `y` is filled with rows of it and the product is added.
//!
//! [`Linear::fused`] fuses a frozen layer with its neighbours: norm or GELU before it, residual
//! connection after it.
//!
//! On a GPU: cuBLASLt adds the bias in its epilogue, also applies a following ReLU there, and
//! computes the gradient of the bias in the product of `dweight`. An MLP product of ViT-L for four
//! images of 512 px, 4100 x 4096 x 1024, is 34 GFLOP: 44 us on an H200 (790 TFLOP/s in bf16).
//!
//! Source: spec backbones §2.2 (every projection of a block; weights as the published checkpoints
//! store them).

mod cpu;
mod fused;
mod gpu;
#[cfg(test)]
mod gpu_tests;
pub mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use fused::{Input, Output, Weight};

use crate::ops::matmul;
use crate::{KernelError, Real, Result, check_len, dry_run};

/// Sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Rows: tokens of all images.
    pub n: usize,
    /// Outputs.
    pub m: usize,
    /// Inputs.
    pub k: usize,
}

impl Linear {
    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        y: &mut [T],
    ) -> Result<()> {
        check_len("linear", "x", x, self.n * self.k)?;
        check_len("linear", "weight", weight, self.m * self.k)?;
        check_len("linear", "y", y, self.n * self.m)?;
        if let Some(bias) = bias {
            check_len("linear", "bias", bias, self.m)?;
        }
        if dry_run::skip_with("linear", || matmul::cost(self.n, self.m, self.k)) {
            return Ok(());
        }
        cpu::forward(self, x, weight, bias, y)
    }

    /// Writes `dx` and adds to `dweight` and `dbias`; each is optional. Only `dweight` needs `x`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; `dweight` without `x`.
    pub fn backward<T: Real>(
        &self,
        x: Option<&[T]>,
        weight: &[T],
        dy: &[T],
        dx: Option<&mut [T]>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        check_len("linear", "weight", weight, self.m * self.k)?;
        check_len("linear", "dy", dy, self.n * self.m)?;
        if let Some(x) = x {
            check_len("linear", "x", x, self.n * self.k)?;
        }
        if let Some(dx) = dx {
            check_len("linear", "dx", dx, self.n * self.k)?;
            cpu::dx(self, weight, dy, dx)?;
        }
        if let Some(dweight) = dweight {
            check_len("linear", "dweight", dweight, self.m * self.k)?;
            let Some(x) = x else {
                let what = "the gradient of the weight needs x".into();
                return Err(KernelError::Size { op: "linear", what });
            };
            cpu::dweight(self, x, dy, dweight)?;
        }
        if let Some(dbias) = dbias {
            check_len("linear", "dbias", dbias, self.m)?;
            crate::ops::add::add_column_sums(self.m, dy, dbias);
        }
        Ok(())
    }
}
