//! Cost of matching a target mask to a query, for the assignment of one image and one output.
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
//! Shapes: `cls` `[q, k + 1]`, `labels` `[g]`, `x` `[q, p]`, `t` `[g, p]`, `cost` `[q, g]`. No
//! gradient.
//! Cost: 6 q g p FLOP, plus the work of about two exponentials for each of `q p` logits; 0.15 GFLOP
//! at q = 100, g = 19, p = 12544.
//!
//! On a GPU: for ten outputs of four images, 40 x 100 queries, 19 targets and 12544 points, one
//! launch reads 240 MB (floor on an H200, 4.3 TB/s: 56 us) and does 6 GFLOP outside the
//! tensor cores. A block handles one query and four targets, so each logit is read, and its
//! exponential computed, five times.
//!
//! Source: spec mask2former §4.3.

mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes and weights of a matching cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatchCost {
    /// Queries.
    pub q: usize,
    /// Targets.
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

impl MatchCost {
    /// Matching cost with the weights of the recipe: 2, 5, 5.
    pub fn new(q: usize, g: usize, k: usize, p: usize) -> MatchCost {
        MatchCost { q, g, k, p, class_weight: 2.0, mask_weight: 5.0, dice_weight: 5.0 }
    }

    /// Writes `cost` `[q, g]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a label outside `0..k`; no points.
    pub fn compute<T: Real>(
        &self,
        cls: &[T],
        labels: &[i32],
        x: &[T],
        t: &[T],
        cost: &mut [T],
    ) -> Result<()> {
        check_len("match_cost", "cls", cls, self.q * (self.k + 1))?;
        check_len("match_cost", "labels", labels, self.g)?;
        check_len("match_cost", "x", x, self.q * self.p)?;
        check_len("match_cost", "t", t, self.g * self.p)?;
        check_len("match_cost", "cost", cost, self.q * self.g)?;
        if self.p == 0 {
            return Err(KernelError::Size { op: "match_cost", what: "there are no points".into() });
        }
        let classes = 0..self.k as i64;
        if let Some(label) = labels.iter().find(|l| !classes.contains(&i64::from(**l))) {
            let what = format!("label {label} is not one of {} classes", self.k);
            return Err(KernelError::Size { op: "match_cost", what });
        }
        if dry_run::skip("match_cost") {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::compute(self, f32s(cls), labels, f32s(x), f32s(t), f32s_mut(cost));
        } else {
            reference::compute(self, cls, labels, x, t, cost);
        }
        Ok(())
    }

    /// Writes the costs of `b` images: `cls` `[b, q, k + 1]`, `labels` `[b, g]`, `x` `[b, q, p]`, `t`
    /// `[b, g, p]`, `cost` `[b, q, g]`. Targets whose label is negative are padding, which comes
    /// last in its image and costs 0.
    ///
    /// # Errors
    /// As [`MatchCost::compute`].
    pub fn compute_padded<T: Real>(
        &self,
        b: usize,
        cls: &[T],
        labels: &[i32],
        x: &[T],
        t: &[T],
        cost: &mut [T],
    ) -> Result<()> {
        let Self { q, g, k, p, .. } = *self;
        check_len("match_cost", "cls", cls, b * q * (k + 1))?;
        check_len("match_cost", "labels", labels, b * g)?;
        check_len("match_cost", "x", x, b * q * p)?;
        check_len("match_cost", "t", t, b * g * p)?;
        check_len("match_cost", "cost", cost, b * q * g)?;
        if dry_run::skip("match_cost") {
            return Ok(());
        }
        let mut own = Vec::new();
        for i in 0..b {
            let labels = &labels[i * g..][..g];
            let filled = labels.iter().take_while(|&&label| label >= 0).count();
            own.clear();
            own.resize(q * filled, T::ZERO);
            let (cls, x) = (&cls[i * q * (k + 1)..][..q * (k + 1)], &x[i * q * p..][..q * p]);
            let (labels, t) = (&labels[..filled], &t[i * g * p..][..filled * p]);
            MatchCost { g: filled, ..*self }.compute(cls, labels, x, t, &mut own)?;
            let rows = cost[i * q * g..][..q * g].chunks_exact_mut(g.max(1));
            for (j, row) in rows.enumerate() {
                let (paired, padding) = row.split_at_mut(filled);
                paired.copy_from_slice(&own[j * filled..][..filled]);
                padding.fill(T::ZERO);
            }
        }
        Ok(())
    }
}
