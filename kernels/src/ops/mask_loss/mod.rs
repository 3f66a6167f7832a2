//! Binary cross-entropy and dice loss of matched masks, sampled at points.
//!
//! Per pair i, with `s = sigmoid(x)`, `S = sum_p s`, `U = sum_p t`, `I = sum_p s t`:
//! ```text
//! mask = mask_weight * sum_{i,p} BCE(x, t) / (num P + eps)
//! dice = dice_weight * sum_i [ 1 - (2 I + 1) / (S + U + 1) ] / (num + eps)
//! ```
//! Backward, with `den = S + U + 1`:
//! ```text
//! dx = dmask * mask_weight / (num P + eps) * (s - t)
//!    - ddice * dice_weight / (num + eps) * s (1 - s) (2 t den - (2 I + 1)) / den^2
//! ```
//! `num` is the number of matched pairs averaged over processes (at least 1), and `eps` the machine
//! epsilon of f32, 1.19e-7.
//!
//! Shapes: `x`, `t`, `dx` `[r, p]`; `sums` `[r, 3]` holds `S, U, I` of each pair. Saved for the
//! backward pass: `x`, `t` and `sums`. The losses of no pairs are zero. Cost: one exponential and
//! about 20 FLOP per point in each pass.
//!
//! On a GPU: 80 pairs of 12544 points in f32 read 8 MB forward and move 12 MB backward; the lower
//! bound on an H200 (4.3 TB/s) is 2 and 3 us. One block handles one pair, then one block computes
//! the two sums. The number of pairs, the weights that mark padding and the incoming gradients stay
//! on the device.
//!
//! Source: spec mask2former §4.4, §4.5.

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use gpu::Pairs;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes and weights of a mask loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskLoss {
    /// Matched pairs.
    pub r: usize,
    /// Points per pair.
    pub p: usize,
    /// Weight of the cross-entropy.
    pub mask_weight: f64,
    /// Weight of the dice loss.
    pub dice_weight: f64,
}

/// Both losses, or their incoming gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskLosses<T> {
    /// Binary cross-entropy.
    pub mask: T,
    /// Dice loss.
    pub dice: T,
}

impl MaskLoss {
    /// Mask loss with the weights of the recipe: 5 and 5.
    pub fn new(r: usize, p: usize) -> MaskLoss {
        MaskLoss { r, p, mask_weight: 5.0, dice_weight: 5.0 }
    }

    /// Returns the losses and writes `sums` `[r, 3]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; pairs without points; `num` not positive.
    pub fn forward<T: Real>(
        &self,
        x: &[T],
        t: &[T],
        num: f64,
        sums: &mut [T],
    ) -> Result<MaskLosses<T>> {
        self.check(x, t, num)?;
        check_len("mask_loss", "sums", sums, self.r * 3)?;
        if dry_run::skip("mask_loss") {
            return Ok(MaskLosses { mask: T::ZERO, dice: T::ZERO });
        }
        let total = if T::IS_F32 {
            T::of(cpu::forward(self, f32s(x), f32s(t), f32s_mut(sums)).into())
        } else {
            reference::forward(self, x, t, sums)
        };
        let mut dice = T::ZERO;
        for sums in sums.chunks_exact(3) {
            let (top, den) = Self::ratio(sums);
            dice += T::ONE - top / den;
        }
        let scale = self.scales(num);
        Ok(MaskLosses { mask: total * T::of(scale.mask), dice: dice * T::of(scale.dice) })
    }

    /// Writes `dx` `[r, p]` for the incoming gradients `dloss`, from the `sums` of the forward
    /// pass.
    ///
    /// # Errors
    /// As [`MaskLoss::forward`].
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        t: &[T],
        num: f64,
        sums: &[T],
        dloss: MaskLosses<T>,
        dx: &mut [T],
    ) -> Result<()> {
        self.check(x, t, num)?;
        check_len("mask_loss", "sums", sums, self.r * 3)?;
        check_len("mask_loss", "dx", dx, self.r * self.p)?;
        if dry_run::skip("mask_loss") {
            return Ok(());
        }
        let scale = self.scales(num);
        let d_mask = dloss.mask * T::of(scale.mask);
        let d_dice = dloss.dice * T::of(scale.dice);
        if T::IS_F32 {
            let (mask, dice) = (d_mask.f64() as f32, d_dice.f64() as f32);
            let d = MaskLosses { mask, dice };
            cpu::backward(self, f32s(x), f32s(t), f32s(sums), d, f32s_mut(dx));
        } else {
            let d = MaskLosses { mask: d_mask, dice: d_dice };
            reference::backward(self, x, t, sums, d, dx);
        }
        Ok(())
    }

    /// Numerator and denominator of the dice ratio.
    fn ratio<T: Real>(sums: &[T]) -> (T, T) {
        (T::of(2.0) * sums[2] + T::ONE, sums[0] + sums[1] + T::ONE)
    }

    /// Factors of the plain sums.
    fn scales(&self, num: f64) -> MaskLosses<f64> {
        let eps = f64::from(f32::EPSILON);
        MaskLosses {
            mask: self.mask_weight / (num * self.p as f64 + eps),
            dice: self.dice_weight / (num + eps),
        }
    }

    fn check<T: Real>(&self, x: &[T], t: &[T], num: f64) -> Result<()> {
        check_len("mask_loss", "x", x, self.r * self.p)?;
        check_len("mask_loss", "t", t, self.r * self.p)?;
        let fail = |what: String| Err(KernelError::Size { op: "mask_loss", what });
        if self.r > 0 && self.p == 0 {
            return fail("there are no points".into());
        }
        // Written so that NaN fails too.
        if !(num > 0.0 && num.is_finite()) {
            return fail(format!("the losses cannot be divided by {num} pairs"));
        }
        Ok(())
    }
}
