//! Cost of matching a target mask to a query, for the assignment of each image and output.
//!
//! ```text
//! class[q, g] = -softmax(cls[q])[label[g]]
//! mask[q, g]  = (1/P) sum_p [ t[g, p] BCE(x[q, p], 1) + (1 - t[g, p]) BCE(x[q, p], 0) ]
//! s           = sigmoid(x)
//! dice[q, g]  = 1 - (2 sum_p s[q, p] t[g, p] + 1) / (sum_p s[q, p] + sum_p t[g, p] + 1)
//! cost        = class_weight * class + mask_weight * mask + dice_weight * dice
//! ```
//! `x` are the mask logits and `t` the target masks, sampled at the same `P` random points. The
//! mask and dice costs are matrix products over the points: `[BCE(x, 1), BCE(x, 0)] [t, 1 - t]^T /
//! P` and `s t^T`.
//!
//! A target whose label is not in `0..k` is padding and costs 0.
//!
//! Shapes of each of `b` images: `cls` `[q, k + 1]`, `labels` `[g]`, `x` `[q, p]`, `t` `[g, p]`,
//! `cost` `[q, g]`. No gradient.
//! Cost of one: 6 q g p FLOP, plus the work of about two exponentials for each of `q p` logits; 0.15 GFLOP
//! at q = 100, g = 19, p = 12544.
//!
//! On a GPU: for ten outputs of four images, 40 x 100 queries, 19 targets and 12544 points, one
//! launch reads 240 MB (floor on an H200, 4.3 TB/s: 56 us) and does 6 GFLOP outside the
//! tensor cores. A block handles one query and four targets, so each logit is read, and its
//! exponential computed, five times.
//!
//! Source: spec mask2former §4.3.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes and weights of a matching cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchCost {
    /// Images, or outputs of images.
    pub b: usize,
    /// Queries.
    pub q: usize,
    /// Targets, padding included.
    pub g: usize,
    /// Classes, without "no object".
    pub k: usize,
    /// Points.
    pub p: usize,
    /// Weight of the class cost.
    pub class_weight: f64,
    /// Weight of the binary cross-entropy cost.
    pub mask_weight: f64,
    /// Weight of the dice cost.
    pub dice_weight: f64,
}

impl Operation for MatchCost {
    const NAME: &'static str = "match_cost";

    fn check(&self) -> Result<()> {
        match self.p {
            0 => Err(self.refuse("there are no points".into())),
            _ => Ok(()),
        }
    }

    fn is_empty(&self) -> bool {
        self.b * self.q * self.g == 0
    }
}

impl MatchCost {
    /// Matching cost with the weights of the recipe: 2, 5, 5.
    pub fn new([b, q, g, k, p]: [usize; 5]) -> MatchCost {
        MatchCost { b, q, g, k, p, class_weight: 2.0, mask_weight: 5.0, dice_weight: 5.0 }
    }

    /// Fails for a label beyond the classes, for callers that know the labels. A negative label is
    /// padding. The calls take both for padding.
    ///
    /// # Errors
    /// The first such label.
    pub fn check_labels(&self, labels: &[i32]) -> Result<()> {
        match labels.iter().find(|&&label| label >= 0 && self.class(label).is_none()) {
            None => Ok(()),
            Some(label) => {
                Err(self.refuse(format!("label {label} is not one of {} classes", self.k)))
            }
        }
    }

    /// Class of a label; `None` for padding.
    fn class(&self, label: i32) -> Option<usize> {
        usize::try_from(label).ok().filter(|&class| class < self.k)
    }

    fn refuse(&self, what: String) -> KernelError {
        KernelError::Size { op: Self::NAME, what }
    }
}

/// Call that writes `cost`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Class logits, `[b, q, k + 1]`; the last class is "no object".
    pub cls: M::In<'a, T>,
    /// Class of each target, `[b, g]`.
    pub labels: M::In<'a, i32>,
    /// Mask logits at the points, `[b, q, p]`.
    pub x: M::In<'a, M::Sum<T>>,
    /// Target masks at the points, `[b, g, p]`.
    pub t: M::In<'a, M::Sum<T>>,
    /// Costs, `[b, q, g]`.
    pub cost: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = MatchCost;

    fn list(&mut self, s: &MatchCost, w: &mut impl Walk<'a, M>) {
        w.reads("cls", &mut self.cls, s.b * s.q * (s.k + 1));
        w.reads("labels", &mut self.labels, s.b * s.g);
        w.reads("x", &mut self.x, s.b * s.q * s.p);
        w.reads("t", &mut self.t, s.b * s.g * s.p);
        w.writes("cost", &mut self.cost, s.b * s.q * s.g);
    }
}
