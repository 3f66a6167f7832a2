//! Score maps in plain loops: the reference implementation.

use super::{Forward, SemanticScores, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = SemanticScores;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &SemanticScores, c: Forward<'_, Host, U>) {
        let Forward { cls, masks, scores } = c;
        let (prob, map, n) = (s.probabilities(cls), s.y.n_in() * s.x.n_in(), s.pixels());
        scores.fill(U::ZERO);
        for i in 0..s.q {
            for j in 0..n {
                let sigma = resized(s, &masks[i * map..][..map], j).sigmoid();
                for c in 0..s.k {
                    scores[c * n + j] += prob[i * s.k + c] * sigma;
                }
            }
        }
    }

    fn fast(s: &SemanticScores, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

/// Value of one map `[h, w]` at pixel `j` of the score map.
fn resized<T: Real>(s: &SemanticScores, map: &[T], j: usize) -> T {
    let (wo, w) = (s.x.n_out(), s.x.n_in());
    let taps = |(index, weight): (&[u32], &[f64])| -> Vec<(usize, T)> {
        index.iter().zip(weight).map(|(&i, &weight)| (i as usize, T::of(weight))).collect()
    };
    let (rows, columns) = (taps(s.y.taps(j / wo)), taps(s.x.taps(j % wo)));
    let row = |i: usize| columns.iter().map(|&(j, weight)| weight * map[i * w + j]).sum::<T>();
    rows.iter().map(|&(i, weight)| weight * row(i)).sum()
}
