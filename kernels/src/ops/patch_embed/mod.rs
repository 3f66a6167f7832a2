//! Patch embedding: an image cut into squares, each mapped to a token.
//!
//! ```text
//! y[b, gy gw + gx, o] =
//!     bias[o] + sum_{i, py, px} x[b, i, gy p + py, gx p + px] weight[o, i, py, px]
//! ```
//! This is a convolution whose stride is its kernel size. The squares do not overlap, so a patch is
//! a row of an `[n, channels p p]` matrix in the order of the published weight (channel, row,
//! column). The rest is a linear layer, and so is the backward pass; each pixel of `dx` comes from
//! exactly one patch.
//!
//! Shapes: image `x`, `dx` `[b, channels, h, w]`, the only tensor with channels first; `y`, `dy`
//! `[b, gh gw, c]` with `gh = h / p`, `gw = w / p`; `weight` as published, `[c, channels, p, p]`;
//! `bias` `[c]`. Saved for the backward pass: `x`, only if the weight is trained. Frozen backbones
//! need no gradient here at all.
//!
//! Cost: `2 b h w channels c` FLOP forward and for each of `dx` and `dweight`.
//!
//! On a GPU: four images of 512 px, patches of 16 and a width of 1024 are 6.4 GFLOP, 8 us on an
//! H200 (790 TFLOP/s in bf16). The compulsory traffic is 16 MB (4 us at 4.3 TB/s). Cutting the
//! images into patches moves 13 MB, and the product then reads the patches. One thread moves one
//! element and reads along the rows of the image.
//!
//! Source: spec backbones §2.1 (patch vector in the order channel, row, column; h and w are
//! multiples of p).

mod cpu;
mod gpu;
pub mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::call::{Call, Host};
use crate::dry_run::Cost;
use crate::ops::linear::{Linear, ParameterGradients};
use crate::{KernelError, Real, Result, check_len, dry_run};

/// Sizes of a patch embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchEmbed {
    /// Images.
    pub b: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Rows of the image, pixels.
    pub h: usize,
    /// Columns of the image, pixels.
    pub w: usize,
    /// Side of a patch, pixels.
    pub p: usize,
    /// Width of a token.
    pub c: usize,
}

impl PatchEmbed {
    /// Rows and columns of patches.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch side.
    pub fn grid(&self) -> Result<(usize, usize)> {
        if self.p == 0 || !self.h.is_multiple_of(self.p) || !self.w.is_multiple_of(self.p) {
            let what = format!(
                "an image of {} x {} pixels does not divide into patches of {} x {}",
                self.h, self.w, self.p, self.p
            );
            return Err(KernelError::Size { op: "patch_embed", what });
        }
        Ok((self.h / self.p, self.w / self.p))
    }

    /// Writes the tokens `y`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; as [`PatchEmbed::grid`].
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        weight: &[T],
        bias: Option<&[T]>,
        y: &mut [T],
    ) -> Result<()> {
        let linear = self.linear()?;
        check_len("patch_embed", "x", x, linear.n * linear.k)?;
        if self.skips(&linear) {
            return Ok(());
        }
        cpu::forward(self, &linear, x, weight, bias, y)
    }

    /// Writes `dx` and adds to `dweight` and `dbias`; each is optional. Only `dweight` needs `x`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; `dweight` without `x`; as
    /// [`PatchEmbed::grid`].
    pub fn backward<T: Real>(
        &self,
        x: Option<&[T]>,
        weight: &[T],
        dy: &[T],
        dx: Option<&mut [T]>,
        dweight: Option<&mut [T]>,
        dbias: Option<&mut [T]>,
    ) -> Result<()> {
        let linear = self.linear()?;
        if let Some(x) = x {
            check_len("patch_embed", "x", x, linear.n * linear.k)?;
        }
        if let Some(dx) = dx {
            check_len("patch_embed", "dx", dx, linear.n * linear.k)?;
            if !self.skips(&linear) {
                cpu::dx(self, &linear, weight, dy, dx)?;
            }
        }
        match (x, dweight) {
            (Some(_), Some(_)) if self.skips(&linear) => Ok(()),
            (Some(x), Some(dweight)) => cpu::parameters(self, &linear, x, dy, dweight, dbias),
            (_, dweight) => {
                let call = ParameterGradients::<Host, T> { x: None, dy, dweight, dbias };
                call.run(&linear)
            }
        }
    }

    /// Whether a dry run skips this pass, whose scratch memory is the image in rows of patches.
    fn skips(&self, linear: &Linear) -> bool {
        dry_run::skip_with("patch_embed", || Cost {
            call: linear.n * linear.k,
            ..Cost::products(linear.n * linear.m * linear.k)
        })
    }

    /// Linear layer applied to the rows of patches.
    fn linear(&self) -> Result<Linear> {
        let (gh, gw) = self.grid()?;
        Ok(Linear { n: self.b * gh * gw, m: self.c, k: self.channels * self.p * self.p })
    }
}
