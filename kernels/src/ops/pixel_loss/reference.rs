//! Per-pixel cross-entropy in plain loops: the reference implementation.

use super::PixelLoss;
use crate::Real;

pub fn forward<T: Real>(s: &PixelLoss, x: &[T], labels: &[u8], lse: &mut [T]) -> T {
    let mut sum = T::ZERO;
    for p in 0..s.b * s.n {
        let logit = |j: usize| x[at(s, p, j)];
        let top = (0..s.k).map(logit).fold(T::of(f64::NEG_INFINITY), Real::max);
        let total: T = (0..s.k).map(|j| (logit(j) - top).exp()).sum();
        lse[p] = top + total.ln();
        let y = usize::from(labels[p]);
        if y < s.k {
            sum += lse[p] - logit(y);
        }
    }
    sum * T::of(s.scale())
}

pub fn backward<T: Real>(s: &PixelLoss, x: &[T], labels: &[u8], lse: &[T], dloss: T, dx: &mut [T]) {
    let scale = dloss * T::of(s.scale());
    for p in 0..s.b * s.n {
        let y = usize::from(labels[p]);
        // sum += lse[p] - x[y, p]
        let d = if y < s.k { scale } else { T::ZERO };
        for j in 0..s.k {
            let hit = if j == y { T::ONE } else { T::ZERO };
            dx[at(s, p, j)] = d * ((x[at(s, p, j)] - lse[p]).exp() - hit);
        }
    }
}

/// Index of the logit of class `j` at pixel `p` of the batch.
fn at(s: &PixelLoss, p: usize, j: usize) -> usize {
    (p / s.n * s.k + j) * s.n + p % s.n
}
