//! Softmax by its formulas: the reference implementation.

use super::Softmax;
use crate::Real;

pub fn forward<T: Real>(s: &Softmax, x: &[T], y: &mut [T]) {
    for (x, y) in x.chunks_exact(s.c).zip(y.chunks_exact_mut(s.c)) {
        let top = x.iter().copied().fold(x[0], T::max);
        let total: T = x.iter().map(|&x| (x - top).exp()).sum();
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - top).exp() / total;
        }
    }
}

pub fn backward<T: Real>(s: &Softmax, y: &[T], dy: &[T], dx: &mut [T]) {
    let rows = y.chunks_exact(s.c).zip(dy.chunks_exact(s.c));
    for ((y, dy), dx) in rows.zip(dx.chunks_exact_mut(s.c)) {
        // y = exp(x - top) / total
        let mean: T = y.iter().zip(dy).map(|(&y, &dy)| y * dy).sum();
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = y * (dy - mean);
        }
    }
}
