//! Score maps in plain loops: the reference implementation.

use super::SemanticScores;
use crate::Real;

pub fn compute<T: Real>(s: &SemanticScores, n: usize, prob: &[T], masks: &[T], scores: &mut [T]) {
    scores.fill(T::ZERO);
    for i in 0..s.q {
        for j in 0..n {
            let sigma = masks[i * n + j].sigmoid();
            for c in 0..s.k {
                scores[c * n + j] += prob[i * s.k + c] * sigma;
            }
        }
    }
}
