//! Residual connection in plain loops: the reference implementation.

use super::Residual;
use crate::Real;

/// `y = x + gamma * r`.
pub fn forward<T: Real>(s: &Residual, x: &[T], r: &[T], gamma: Option<&[T]>, y: &mut [T]) {
    for i in 0..s.n * s.c {
        y[i] = x[i] + gamma.map_or(r[i], |gamma| gamma[i % s.c] * r[i]);
    }
}

/// `dr = dy * gamma`.
pub fn dr<T: Real>(s: &Residual, gamma: Option<&[T]>, dy: &[T], dr: &mut [T]) {
    for i in 0..s.n * s.c {
        dr[i] = gamma.map_or(dy[i], |gamma| dy[i] * gamma[i % s.c]);
    }
}

/// `dgamma += sum_n dy * r`.
pub fn dgamma<T: Real>(s: &Residual, r: &[T], dy: &[T], dgamma: &mut [T]) {
    for i in 0..s.n * s.c {
        // y[i] += gamma[i % c] * r[i]
        dgamma[i % s.c] += dy[i] * r[i];
    }
}
