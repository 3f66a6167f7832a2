//! Transposition in plain loops: the reference implementation.

use super::Transpose;
use crate::Real;

pub fn forward<T: Real>(s: &Transpose, x: &[T], y: &mut [T]) {
    for b in 0..s.b {
        for i in 0..s.n {
            for j in 0..s.m {
                y[(b * s.m + j) * s.n + i] = x[(b * s.n + i) * s.m + j];
            }
        }
    }
}
