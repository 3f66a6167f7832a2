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
//! epsilon of f32, 1.19e-7. Each pair has a weight that its losses are multiplied by.
//!
//! Shapes: `x`, `t`, `dx` `[r, p]`; `weights` `[r]`; `num` `[1]`; `losses`, `dlosses` `[2]`; `sums`
//! `[r, 4]` holds `S, U, I` and the cross-entropy of each pair. Saved for the backward pass: the
//! inputs and `sums`. The losses of no pairs are zero. Cost: one exponential and
//! about 20 FLOP per point in each pass.
//!
//! On a GPU: 80 pairs of 12544 points in f32 read 8 MB forward and move 12 MB backward; the lower
//! bound on an H200 (4.3 TB/s) is 2 and 3 us. One block handles one pair, then one block computes
//! the two sums. The number of pairs, the weights that mark padding and the incoming gradients stay
//! on the device.
//!
//! Source: spec mask2former §4.4, §4.5.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Real, Result};

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

impl Operation for MaskLoss {
    const NAME: &'static str = "mask_loss";

    fn check(&self) -> Result<()> {
        match self.r > 0 && self.p == 0 {
            true => Err(self.refuse("there are no points".into())),
            false => Ok(()),
        }
    }
}

impl MaskLoss {
    /// Mask loss with the weights of the recipe: 5 and 5.
    pub fn new(r: usize, p: usize) -> MaskLoss {
        MaskLoss { r, p, mask_weight: 5.0, dice_weight: 5.0 }
    }

    /// Fails for a number of pairs that the losses cannot be divided by, for callers that know it. The
    /// calls do not check it.
    ///
    /// # Errors
    /// `num` not positive, or not finite.
    pub fn check_num(&self, num: f64) -> Result<()> {
        // Written so that NaN fails too.
        match num > 0.0 && num.is_finite() {
            true => Ok(()),
            false => Err(self.refuse(format!("the losses cannot be divided by {num} pairs"))),
        }
    }

    fn refuse(&self, what: String) -> KernelError {
        KernelError::Size { op: Self::NAME, what }
    }

    /// Numerator and denominator of the dice ratio.
    fn ratio<T: Real>(sums: &[T]) -> (T, T) {
        (T::of(2.0) * sums[2] + T::ONE, sums[0] + sums[1] + T::ONE)
    }

    /// Factors of the plain sums: of the cross-entropy and of the dice loss.
    fn scales<T: Real>(&self, num: T) -> [T; 2] {
        let eps = T::of(f64::from(f32::EPSILON));
        let mask = T::of(self.mask_weight) / (num * T::of(self.p as f64) + eps);
        [mask, T::of(self.dice_weight) / (num + eps)]
    }
}

/// Call that writes `sums` and `losses`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Mask logits at the points, `[r, p]`.
    pub x: M::In<'a, T>,
    /// Targets at the points, `[r, p]`.
    pub t: M::In<'a, M::Sum<T>>,
    /// Number of pairs that the losses are divided by, `[1]`, positive.
    pub num: M::In<'a, M::Sum<T>>,
    /// Weight of each pair, `[r]`, 0 for padding; left out: 1.
    pub weights: Option<M::In<'a, M::Sum<T>>>,
    /// `S, U, I` of each pair and its cross-entropy, `[r, 4]`.
    pub sums: M::Out<'a, M::Sum<T>>,
    /// Binary cross-entropy and dice loss, `[2]`.
    pub losses: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = MaskLoss;

    fn list(&mut self, s: &MaskLoss, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.r * s.p);
        w.reads("t", &mut self.t, s.r * s.p);
        w.reads("num", &mut self.num, 1);
        w.reads_if("weights", &mut self.weights, s.r);
        w.writes("sums", &mut self.sums, 4 * s.r);
        w.writes("losses", &mut self.losses, 2);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Mask logits at the points, `[r, p]`.
    pub x: M::In<'a, T>,
    /// Targets at the points, `[r, p]`.
    pub t: M::In<'a, M::Sum<T>>,
    /// Number of pairs that the losses are divided by, `[1]`, positive.
    pub num: M::In<'a, M::Sum<T>>,
    /// Weight of each pair, `[r]`, 0 for padding; left out: 1.
    pub weights: Option<M::In<'a, M::Sum<T>>>,
    /// The `sums` of the forward pass, `[r, 4]`.
    pub sums: M::In<'a, M::Sum<T>>,
    /// Incoming gradients of both losses, `[2]`.
    pub dlosses: M::In<'a, M::Sum<T>>,
    /// Gradient of `x`, `[r, p]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = MaskLoss;

    fn list(&mut self, s: &MaskLoss, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.r * s.p);
        w.reads("t", &mut self.t, s.r * s.p);
        w.reads("num", &mut self.num, 1);
        w.reads_if("weights", &mut self.weights, s.r);
        w.reads("sums", &mut self.sums, 4 * s.r);
        w.reads("dlosses", &mut self.dlosses, 2);
        w.writes("dx", &mut self.dx, s.r * s.p);
    }
}
