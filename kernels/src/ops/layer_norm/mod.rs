//! Layer norm over the last axis.
//!
//! ```text
//! mean = sum(x) / c        rstd = 1 / sqrt(sum((x - mean)^2) / c + eps)       per row
//! y    = (x - mean) * rstd * weight + bias
//! ```
//! Backward, with `xhat = (x - mean) * rstd` and `g = dy * weight`:
//! ```text
//! dx      = rstd * (g - mean_c(g) - xhat * mean_c(g * xhat))
//! dweight += sum_rows(dy * xhat)        dbias += sum_rows(dy)
//! ```
//! The variance is computed around the mean. The mean square minus the squared mean is not used
//! because it cancels for rows with a large mean.
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[n, c]`; `weight`, `bias` and their gradients `[c]`; `mean`,
//! `rstd` `[n]`. Saved for the backward pass: `x` (which the caller keeps anyway) and `8 n` bytes
//! of statistics. Cost: about 8 n c FLOP forward; one read and one write of `[n, c]`, so it is
//! memory-bound. Source: spec backbones §2.2 (eps 1e-6 in DINOv2) and mask2former, conventions (eps
//! 1e-5).
//!
//! On a GPU: statistics, weight, bias and their gradients are f32. The tokens of four 512 px images
//! of ViT-L, `[4100, 1024]` bf16, move 17 MB forward (34 MFLOP) and 25 MB for `dx`; the floor
//! on an H200 (4.3 TB/s) is 4 and 6 us. One warp handles one row, four rows per block. A row of
//! 1024 is four 16-byte accesses per lane, kept in registers between the passes over it, and warps
//! need no synchronisation. `dweight` and `dbias` take two passes over row splits, in an order
//! set by the sizes (`cuda/columns.cuh`).

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use gpu::StatsGpu;

use crate::{KernelError, Real, Result, Write, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a layer norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// Rows.
    pub n: usize,
    /// Channels, the normalised axis.
    pub c: usize,
    /// Term added to the variance.
    pub eps: f64,
}

/// Statistics saved by the forward pass of a norm for the backward pass.
///
/// Each has one value per set of elements that is normalised together: `[n]` for layer norm.
#[derive(Debug)]
pub struct Stats<'a, T> {
    /// Mean of each set.
    pub mean: &'a [T],
    /// Reciprocal standard deviation of each set.
    pub rstd: &'a [T],
}

/// Layer norm with known statistics: `(z - mean) rstd weight + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a, T> {
    /// z, `[n, k]`.
    pub z: &'a [T],
    /// Mean of each row, `[n]`.
    pub mean: &'a [T],
    /// Reciprocal standard deviation of each row, `[n]`.
    pub rstd: &'a [T],
    /// Weight of the norm, `[k]`.
    pub weight: &'a [T],
    /// Bias of the norm, `[k]`.
    pub bias: &'a [T],
}

impl LayerNorm {
    /// Writes `y`, `mean` and `rstd`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; rows without channels.
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        bias: &[T],
        y: &mut [T],
        mean: &mut [T],
        rstd: &mut [T],
    ) -> Result<()> {
        self.check(x, weight)?;
        check_len("layer_norm", "bias", bias, self.c)?;
        check_len("layer_norm", "y", y, self.n * self.c)?;
        check_len("layer_norm", "mean", mean, self.n)?;
        check_len("layer_norm", "rstd", rstd, self.n)?;
        if dry_run::skip("layer_norm") {
            return Ok(());
        }
        if T::IS_F32 {
            let (mean, rstd) = (f32s_mut(mean), f32s_mut(rstd));
            cpu::forward(self, f32s(x), f32s(weight), f32s(bias), f32s_mut(y), mean, rstd);
        } else {
            reference::forward(self, x, weight, bias, y, mean, rstd);
        }
        Ok(())
    }

    /// Writes only `mean` and `rstd`, for a product that normalises its operand itself.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; rows without channels.
    pub fn stats<T: Real>(&self, x: &[T], mean: &mut [T], rstd: &mut [T]) -> Result<()> {
        self.check_rows(x)?;
        check_len("layer_norm", "mean", mean, self.n)?;
        check_len("layer_norm", "rstd", rstd, self.n)?;
        if dry_run::skip("layer_norm") {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::stats(self, f32s(x), f32s_mut(mean), f32s_mut(rstd));
        } else {
            reference::stats(self, x, mean, rstd);
        }
        Ok(())
    }

    /// Writes `dx` or, with [`Write::Add`], adds to it; adds to `dweight` and `dbias`. Each is
    /// optional.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; rows without channels.
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        stats: Stats<'_, T>,
        dy: &[T],
        dx: Option<(&mut [T], Write)>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        self.check(x, weight)?;
        check_len("layer_norm", "mean", stats.mean, self.n)?;
        check_len("layer_norm", "rstd", stats.rstd, self.n)?;
        check_len("layer_norm", "dy", dy, self.n * self.c)?;
        if let Some((dx, _)) = &dx {
            check_len("layer_norm", "dx", dx, self.n * self.c)?;
        }
        for (name, d) in [("dweight", &dweight), ("dbias", &dbias)] {
            if let Some(d) = d {
                check_len("layer_norm", name, d, self.c)?;
            }
        }
        if dry_run::skip("layer_norm") {
            return Ok(());
        }
        if T::IS_F32 {
            let stats = Stats { mean: f32s(stats.mean), rstd: f32s(stats.rstd) };
            let dx = dx.map(|(dx, write)| (f32s_mut(dx), write));
            let (dweight, dbias) = (dweight.map(f32s_mut), dbias.map(f32s_mut));
            cpu::backward(self, f32s(x), f32s(weight), stats, f32s(dy), dx, dweight, dbias);
        } else {
            reference::backward(self, x, weight, stats, dy, dx, dweight, dbias);
        }
        Ok(())
    }

    fn check<T: Real>(&self, x: &[T], weight: &[T]) -> Result<()> {
        self.check_rows(x)?;
        check_len("layer_norm", "weight", weight, self.c)
    }

    fn check_rows<T: Real>(&self, x: &[T]) -> Result<()> {
        if self.c == 0 {
            let what = "rows of 0 channels have no mean".into();
            return Err(KernelError::Size { op: "layer_norm", what });
        }
        check_len("layer_norm", "x", x, self.n * self.c)
    }
}
