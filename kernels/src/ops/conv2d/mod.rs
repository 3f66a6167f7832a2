//! Convolution of channels-last maps.
//!
//! ```text
//! y[b, oy, ox, o] = bias[o]
//!     + sum_{ky, kx, i} x[b, oy s + ky - p, ox s + kx - p, i] weight[o, i, ky, kx]
//! ```
//! with stride `s` and padding `p`; `x` is 0 outside its map. Backward, over all `oy, ky` that use
//! pixel `iy`:
//! ```text
//! dx[b, iy, ix, i] =
//!     sum_{ky, kx, o} dy[b, (iy + p - ky) / s, (ix + p - kx) / s, o] weight[o, i, ky, kx]
//! dweight[o, i, ky, kx] +=
//!     sum_{b, oy, ox} dy[b, oy, ox, o] x[b, oy s + ky - p, ox s + kx - p, i]
//! dbias[o] += sum_{b, oy, ox} dy[b, oy, ox, o]
//! ```
//! Shapes: `x`, `dx` are `[b, h, w, ci]`; `y`, `dy` `[b, ho, wo, co]` where
//! `ho = (h + 2p - kh) / s + 1`; `weight` as published, `[co, ci, kh, kw]`; `bias` `[co]`. Saved for
//! the backward pass: `x`, only if the weight is trained.
//!
//! Each direction is a matrix product of unfolded pixels (im2col). It handles one block of output
//! pixels at a time, so that the unfolded rows fit in cache-sized scratch memory. The gradient of
//! `x` unfolds `dy` instead of folding products back (col2im): a gather without races, where each
//! sum is inside one product. With a stride above 1 it multiplies zeros; the networks here use
//! strides in only a place or two. A 1 x 1 kernel with stride 1 needs no unfolding and calls the
//! linear layer directly.
//!
//! Cost: `2 b ho wo co ci kh kw` FLOP forward and for each of `dx` (times `s^2`) and `dweight`.
//!
//! On a GPU: a 3 x 3 convolution of 256 channels over `[4, 128, 128]` is 77 GFLOP, 98 us on an H200
//! (790 TFLOP/s in bf16). Its unfolded pixels are 302 MB written and read, 140 us at 4.3 TB/s, so
//! an implicit GEMM that unfolds on the fly would gain more than any tuning of this form. Blocks of
//! 32 million elements are unfolded, one thread per 8 channels of a tap, in the order `[kh, kw, c]`
//! in which they are contiguous. The weight is reordered to match once per call.
//!
//! Source: spec mask2former §2.1 (1 x 1) and §2.7 (3 x 3, padding 1).

mod cpu;
mod gpu;
pub mod reference;
#[cfg(test)]
mod tests;
mod unfold;
pub(crate) mod verify;

use crate::call::{Call, Host};
use crate::ops::linear::{self, Linear};
use crate::{KernelError, Real, Result, check_len, dry_run};

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub b: usize,
    /// Rows of `x`.
    pub h: usize,
    /// Columns of `x`.
    pub w: usize,
    /// Channels of `x`.
    pub ci: usize,
    /// Channels of `y`.
    pub co: usize,
    /// Rows of the kernel.
    pub kh: usize,
    /// Columns of the kernel.
    pub kw: usize,
    /// Step in pixels of `x` from one pixel of `y` to the next.
    pub stride: usize,
    /// Rows and columns of zeros around `x` on every side.
    pub pad: usize,
}

impl Conv2d {
    /// Rows and columns of `y`.
    ///
    /// # Errors
    /// A stride or kernel size of 0, or a kernel larger than the padded map.
    pub fn output(&self) -> Result<(usize, usize)> {
        let size = |x: usize, k: usize| {
            let room = (x + 2 * self.pad).checked_sub(k)?;
            (k > 0).then_some(room.checked_div(self.stride)? + 1)
        };
        match (size(self.h, self.kh), size(self.w, self.kw)) {
            (Some(h), Some(w)) => Ok((h, w)),
            _ => {
                let what = format!(
                    "a {} x {} kernel with stride {} does not fit a {} x {} map padded by {}",
                    self.kh, self.kw, self.stride, self.h, self.w, self.pad
                );
                Err(KernelError::Size { op: "conv2d", what })
            }
        }
    }

    /// Writes `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; as [`Conv2d::output`].
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        y: &mut [T],
    ) -> Result<()> {
        self.check(weight, y)?;
        check_len("conv2d", "x", x, self.b * self.h * self.w * self.ci)?;
        if let Some(bias) = bias {
            check_len("conv2d", "bias", bias, self.co)?;
        }
        match self.pointwise() {
            Some(s) => linear::Forward::<Host, T> { x, weight, bias, y }.run(&s),
            None if dry_run::skip_with("conv2d", || cpu::cost(self)) => Ok(()),
            None => cpu::forward(self, x, weight, bias, y),
        }
    }

    /// Writes `dx` and adds to `dweight` and `dbias`; each is optional. Only `dweight` needs `x`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; `dweight` without `x`; as [`Conv2d::output`].
    pub fn backward<T: Real>(
        &self,
        x: Option<&[T]>,
        weight: &[T],
        dy: &[T],
        dx: Option<&mut [T]>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        self.check(weight, dy)?;
        let pixels = self.b * self.h * self.w * self.ci;
        if let Some(x) = x {
            check_len("conv2d", "x", x, pixels)?;
        }
        if let Some(dx) = &dx {
            check_len("conv2d", "dx", dx, pixels)?;
        }
        if let Some(dweight) = &dweight {
            check_len("conv2d", "dweight", dweight, weight.len())?;
        }
        if let Some(dbias) = &dbias {
            check_len("conv2d", "dbias", dbias, self.co)?;
        }
        if let Some(s) = self.pointwise() {
            if let Some(dx) = dx {
                linear::Backward::<Host, T> { weight, dy, dx }.run(&s)?;
            }
            return linear::ParameterGradients::<Host, T> { x, dy, dweight, dbias }.run(&s);
        }
        let skips = || dry_run::skip_with("conv2d", || cpu::cost(self));
        if let Some(dx) = dx
            && !skips()
        {
            cpu::dx(self, weight, dy, dx)?;
        }
        if let Some(dweight) = dweight {
            let Some(x) = x else {
                let what = "the gradient of the weight needs x".into();
                return Err(KernelError::Size { op: "conv2d", what });
            };
            if !skips() {
                cpu::dweight(self, x, dy, dweight)?;
            }
        }
        if let Some(dbias) = dbias {
            crate::ops::add::add_column_sums(self.co, dy, dbias);
        }
        Ok(())
    }

    /// Linear layer equal to this convolution, if it is 1 x 1 with stride 1 and no padding.
    fn pointwise(&self) -> Option<Linear> {
        let alone = (self.kh, self.kw, self.stride, self.pad) == (1, 1, 1, 0);
        alone.then_some(Linear { n: self.b * self.h * self.w, m: self.co, k: self.ci })
    }

    fn check<T>(&self, weight: &[T], y: &[T]) -> Result<()> {
        let (ho, wo) = self.output()?;
        check_len("conv2d", "weight", weight, self.co * self.ci * self.kh * self.kw)?;
        check_len("conv2d", "y", y, self.b * ho * wo * self.co)
    }
}
