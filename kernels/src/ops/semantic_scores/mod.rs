//! Class scores of every pixel from the classes and masks of all queries.
//!
//! ```text
//! prob[q, c]  = softmax(cls[q])[c]      over k + 1 entries, of which "no object" is then dropped
//! score[c, n] = sum_q prob[q, c] sigmoid(mask[q, n])
//! ```
//! Scores are not normalised over the classes. [`SemanticScores::upsampled`] also resizes the mask
//! logits, one row of pixels at a time. So the masks of all queries at the size of the crop (105 MB
//! for 100 queries at 512 px) are never built; the result equals resizing first.
//!
//! Shapes, one image: `cls` `[q, k + 1]`, masks `[q, n]` or `[q, h, w]`, scores `[k, n]` or `[k,
//! ho, wo]`. No gradient.
//! Cost: 2 q k n FLOP and q n sigmoids; 1 GFLOP at q = 100, k = 19, 512 px.
//!
//! On a GPU: 100 queries, 19 classes and 512 px read 3 MB of masks in bf16 and write 20 MB of
//! scores in f32 (floor on an H200, 4.3 TB/s: 5 us), with 1 GFLOP and 26 million sigmoids. A
//! thread handles one pixel and up to 20 classes, enough for the classes of a street scene, so the
//! masks are resized once and never written.
//!
//! Source: spec mask2former §5.

mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::call::{Call, Host};
use crate::ops::resize::{self, Axis, Resize};
use crate::{Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a score map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SemanticScores {
    /// Queries.
    pub q: usize,
    /// Classes, without "no object".
    pub k: usize,
}

impl SemanticScores {
    /// Writes `scores` `[k, n]` from mask logits `[q, n]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn compute<T: Real>(
        &self,
        n: usize,
        cls: &[T],
        masks: &[T],
        scores: &mut [T],
    ) -> Result<()> {
        check_len("semantic_scores", "cls", cls, self.q * (self.k + 1))?;
        check_len("semantic_scores", "masks", masks, self.q * n)?;
        check_len("semantic_scores", "scores", scores, self.k * n)?;
        if dry_run::skip("semantic_scores") {
            return Ok(());
        }
        let prob = self.probabilities(cls);
        if T::IS_F32 {
            cpu::compute(self, n, f32s(&prob), f32s(masks), f32s_mut(scores));
        } else {
            reference::compute(self, n, &prob, masks, scores);
        }
        Ok(())
    }

    /// Writes `scores` `[k, ho, wo]` from mask logits `[q, h, w]`, resized by the tap tables `y`
    /// (rows) and `x` (columns).
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn upsampled<T: Real>(
        &self,
        y: &Axis,
        x: &Axis,
        cls: &[T],
        masks: &[T],
        scores: &mut [T],
    ) -> Result<()> {
        let resize = Resize { n: self.q, c: 1, y: y.clone(), x: x.clone() };
        let n = y.n_out() * x.n_out();
        check_len("semantic_scores", "cls", cls, self.q * (self.k + 1))?;
        check_len("semantic_scores", "masks", masks, resize.input_len())?;
        check_len("semantic_scores", "scores", scores, self.k * n)?;
        if dry_run::skip("semantic_scores") {
            return Ok(());
        }
        let prob = self.probabilities(cls);
        if T::IS_F32 {
            cpu::upsampled(self, &resize, f32s(&prob), f32s(masks), f32s_mut(scores));
        } else {
            let mut full = vec![T::ZERO; self.q * n];
            resize::Forward::<Host, _> { x: masks, y: &mut full }.run(&resize)?;
            reference::compute(self, n, &prob, &full, scores);
        }
        Ok(())
    }

    /// Class probabilities without "no object", `[q, k]`.
    fn probabilities<T: Real>(&self, cls: &[T]) -> Vec<T> {
        let mut prob = Vec::with_capacity(self.q * self.k);
        for row in cls.chunks_exact(self.k + 1) {
            let top = row.iter().copied().fold(row[0], Real::max);
            let total = row.iter().map(|&v| (v - top).exp()).sum::<T>();
            prob.extend(row[..self.k].iter().map(|&v| (v - top).exp() / total));
        }
        prob
    }
}
