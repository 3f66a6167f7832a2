//! Cross-entropy over classes with class weights, divided by the summed weights of the rows.
//!
//! ```text
//! loss       = weight * sum_i w[y_i] (lse(x_i) - x[i, y_i]) / (sum_i w[y_i] + eps)
//! dx[i, j]   = dloss * weight * w[y_i] (softmax(x_i)[j] - [j = y_i]) / (sum_i w[y_i] + eps)
//! ```
//! `eps` is the machine epsilon of f32, 1.19e-7. Rows are the queries of a batch. `y` is their
//! matched class, or the last class for "no object". A row whose target is not in `0..k` is ignored.
//! A caller that computes a batch in parts gives the sum of the weights over the whole batch instead.
//!
//! Shapes: `x`, `dx` `[n, k]` with `k` counting "no object"; `targets` `[n]`; `class_weights`
//! `[k]`; `divisor`, `loss`, `scale`, `dloss` `[1]`, where `scale` is `weight / (sum_i w[y_i] + eps)`. Saved:
//! the inputs and `scale`; the softmax is recomputed. Cost: 2 n k exponentials. With n = 400, k = 20 plain loops take microseconds, so there is no faster version.
//!
//! On a GPU: 400 rows of 20 classes in f32 are 32 KB, which takes far less time than a launch. So
//! the forward pass is one block, and only the backward pass uses the whole device, one warp per
//! row.
//!
//! Source: spec mask2former §4.4, §4.5.

mod checks;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes of a class loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassLoss {
    /// Rows.
    pub n: usize,
    /// Classes, "no object" included.
    pub k: usize,
    /// Weight of the loss; 2 in the recipe.
    pub weight: f64,
}

impl Operation for ClassLoss {
    const NAME: &'static str = "class_loss";
}

impl ClassLoss {
    /// Fails for a target outside `0..k`, for callers that know the targets. The calls ignore such a
    /// row.
    ///
    /// # Errors
    /// The first such target.
    pub fn check_targets(&self, targets: &[i32]) -> Result<()> {
        match targets.iter().find(|y| self.class(**y).is_none()) {
            None => Ok(()),
            Some(y) => {
                let what = format!("target {y} is not one of {} classes", self.k);
                Err(KernelError::Size { op: Self::NAME, what })
            }
        }
    }

    /// Class of a target; `None` outside `0..k`.
    fn class(&self, target: i32) -> Option<usize> {
        usize::try_from(target).ok().filter(|&y| y < self.k)
    }
}

/// Call that writes `loss` and `scale`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Logits, `[n, k]`.
    pub x: M::In<'a, T>,
    /// Class of each row, `[n]`.
    pub targets: M::In<'a, i32>,
    /// Weight of each class, `[k]`.
    pub class_weights: M::In<'a, M::Sum<T>>,
    /// Divisor instead of the summed weights of the rows, `[1]`.
    pub divisor: Option<M::In<'a, M::Sum<T>>>,
    /// Loss, `[1]`.
    pub loss: M::Out<'a, M::Sum<T>>,
    /// Factor of the weighted sum, for the backward pass, `[1]`.
    pub scale: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = ClassLoss;

    fn list(&mut self, s: &ClassLoss, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.k);
        w.reads("targets", &mut self.targets, s.n);
        w.reads("class_weights", &mut self.class_weights, s.k);
        w.reads_if("divisor", &mut self.divisor, 1);
        w.writes("loss", &mut self.loss, 1);
        w.writes("scale", &mut self.scale, 1);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Logits, `[n, k]`.
    pub x: M::In<'a, T>,
    /// Class of each row, `[n]`.
    pub targets: M::In<'a, i32>,
    /// Weight of each class, `[k]`.
    pub class_weights: M::In<'a, M::Sum<T>>,
    /// The `scale` of the forward pass, `[1]`.
    pub scale: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[1]`.
    pub dloss: M::In<'a, M::Sum<T>>,
    /// Gradient of `x`, `[n, k]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = ClassLoss;

    fn list(&mut self, s: &ClassLoss, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.k);
        w.reads("targets", &mut self.targets, s.n);
        w.reads("class_weights", &mut self.class_weights, s.k);
        w.reads("scale", &mut self.scale, 1);
        w.reads("dloss", &mut self.dloss, 1);
        w.writes("dx", &mut self.dx, s.n * s.k);
    }
}
