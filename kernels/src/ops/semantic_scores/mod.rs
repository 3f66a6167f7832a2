//! Class scores of every pixel from the classes and masks of all queries.
//!
//! ```text
//! prob[q, c]  = softmax(cls[q])[c]      over k + 1 entries, of which "no object" is then dropped
//! score[c, n] = sum_q prob[q, c] sigmoid(mask[q, n])
//! ```
//! Scores are not normalised over the classes. The mask logits `[q, h, w]` are resized to `n = ho wo`
//! pixels on the way, one row of pixels at a time. So the masks of all queries at the size of the
//! crop (105 MB for 100 queries at 512 px) are never built; the result equals resizing first.
//!
//! Shapes, one image: `cls` `[q, k + 1]`, `masks` `[q, h, w]`, `scores` `[k, ho, wo]`. No gradient.
//! Cost: 2 q k n FLOP and q n sigmoids; 1 GFLOP at q = 100, k = 19, 512 px.
//!
//! On a GPU: 100 queries, 19 classes and 512 px read 3 MB of masks in bf16 and write 20 MB of
//! scores in f32 (floor on an H200, 4.3 TB/s: 5 us), with 1 GFLOP and 26 million sigmoids. A
//! thread handles one pixel and up to 20 classes, enough for the classes of a street scene, so the
//! masks are resized once and never written.
//!
//! Source: spec mask2former §5.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::Real;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::ops::resize::Axis;

/// Sizes of a score map, and the tap tables that resize the masks.
#[derive(Debug, Clone, PartialEq)]
pub struct SemanticScores {
    /// Queries.
    pub q: usize,
    /// Classes, without "no object".
    pub k: usize,
    /// Taps of the rows: `h` to `ho`.
    pub y: Axis,
    /// Taps of the columns: `w` to `wo`.
    pub x: Axis,
}

impl Operation for SemanticScores {
    const NAME: &'static str = "semantic_scores";
}

impl SemanticScores {
    /// Pixels of a score map.
    fn pixels(&self) -> usize {
        self.y.n_out() * self.x.n_out()
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

/// Call that writes `scores`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Class logits, `[q, k + 1]`; the last class is "no object".
    pub cls: M::In<'a, T>,
    /// Mask logits, `[q, h, w]`.
    pub masks: M::In<'a, T>,
    /// Scores, `[k, ho, wo]`.
    pub scores: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = SemanticScores;

    fn list(&mut self, s: &SemanticScores, w: &mut impl Walk<'a, M>) {
        w.reads("cls", &mut self.cls, s.q * (s.k + 1));
        w.reads("masks", &mut self.masks, s.q * s.y.n_in() * s.x.n_in());
        w.writes("scores", &mut self.scores, s.k * s.pixels());
    }
}
