//! Group norm of channels-last maps.
//!
//! ```text
//! mean = sum(x) / N        rstd = 1 / sqrt(sum((x - mean)^2) / N + eps)
//!                                        per image and group, N = hw c / groups
//! y    = (x - mean) * rstd * weight[c] + bias[c]
//! ```
//! Backward, with `xhat = (x - mean) * rstd` and `g = dy * weight[c]`:
//! ```text
//! dx         = rstd * (g - mean_group(g) - xhat * mean_group(g * xhat))
//! dweight[c] += sum_{b, hw}(dy * xhat)        dbias[c] += sum_{b, hw}(dy)
//! ```
//! Group `j` holds the channels `j c / groups ..` of every pixel of one image. The variance is
//! computed around the mean of each row split and the splits are merged with Chan's formula.
//! `E[x^2] - E[x]^2` is not used because it cancels.
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[b, hw, c]`; `weight`, `bias` and their gradients `[c]`;
//! `mean`, `rstd` `[b, groups]`.
//! Saved for the backward pass: `x` and `8 b groups` bytes of statistics.
//! Cost: about 8 FLOP per element forward; two reads and one write, so it is memory-bound.
//!
//! On a GPU: the finest map of the pixel decoder, `[4, 16384, 256]` bf16, is 34 MB. Forward reads
//! it twice and writes it once: floor on an H200 (4.3 TB/s) 23 us, 16 us if the second read
//! comes from the L2 cache. Backward reads `x` and `dy` twice and writes `dx`: 39 us. They take 8
//! and 16 FLOP per element. The statistics use one thread per channel, so that accesses of a warp
//! are contiguous for any group width. Row splits fill the grid and are merged in a fixed
//! order.
//!
//! Source: spec mask2former, conventions (32 groups, eps 1e-5, affine).

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
pub mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

/// Statistics of the groups, `[b, groups]` each.
pub use gpu::StatsGpu;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a group norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Images.
    pub b: usize,
    /// Pixels of an image.
    pub hw: usize,
    /// Channels.
    pub c: usize,
    /// Number of groups of channels.
    pub groups: usize,
    /// Term added to the variance.
    pub eps: f64,
}

/// Statistics saved by the forward pass for the backward pass, `[b, groups]`.
#[derive(Debug)]
pub struct Stats<'a, T> {
    /// Mean of each group.
    pub mean: &'a [T],
    /// Reciprocal standard deviation of each group.
    pub rstd: &'a [T],
}

impl GroupNorm {
    /// Writes `y`, `mean` and `rstd`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a number of channels that is not a multiple
    /// of the groups; images without pixels or channels.
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        bias: &[T],
        y: &mut [T],
        mean: &mut [T],
        rstd: &mut [T],
    ) -> Result<()> {
        self.check(x, weight, mean, rstd)?;
        check_len("group_norm", "bias", bias, self.c)?;
        check_len("group_norm", "y", y, x.len())?;
        if dry_run::skip("group_norm") {
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

    /// Writes `dx` and adds to `dweight` and `dbias`; each is optional.
    ///
    /// # Errors
    /// As [`GroupNorm::forward`].
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        stats: Stats<'_, T>,
        dy: &[T],
        dx: Option<&mut [T]>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        self.check(x, weight, stats.mean, stats.rstd)?;
        check_len("group_norm", "dy", dy, x.len())?;
        if let Some(dx) = &dx {
            check_len("group_norm", "dx", dx, x.len())?;
        }
        for (name, d) in [("dweight", &dweight), ("dbias", &dbias)] {
            if let Some(d) = d {
                check_len("group_norm", name, d, self.c)?;
            }
        }
        if dry_run::skip("group_norm") {
            return Ok(());
        }
        if T::IS_F32 {
            let stats = Stats { mean: f32s(stats.mean), rstd: f32s(stats.rstd) };
            let (dx, dweight, dbias) =
                (dx.map(f32s_mut), dweight.map(f32s_mut), dbias.map(f32s_mut));
            cpu::backward(self, f32s(x), f32s(weight), stats, f32s(dy), dx, dweight, dbias);
        } else {
            reference::backward(self, x, weight, stats, dy, dx, dweight, dbias);
        }
        Ok(())
    }

    fn check<T>(&self, x: &[T], weight: &[T], mean: &[T], rstd: &[T]) -> Result<()> {
        if self.groups == 0 || !self.c.is_multiple_of(self.groups) {
            let what = format!("{} channels do not divide into {} groups", self.c, self.groups);
            return Err(KernelError::Size { op: "group_norm", what });
        }
        if self.hw * self.c == 0 {
            let what = format!("{} pixels of {} channels have no mean", self.hw, self.c);
            return Err(KernelError::Size { op: "group_norm", what });
        }
        check_len("group_norm", "x", x, self.b * self.hw * self.c)?;
        check_len("group_norm", "weight", weight, self.c)?;
        check_len("group_norm", "mean", mean, self.b * self.groups)?;
        check_len("group_norm", "rstd", rstd, self.b * self.groups)
    }
}
