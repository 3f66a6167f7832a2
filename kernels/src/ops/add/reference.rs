//! Addition, scaling and column sums in plain loops: the reference implementation.

use super::Add;
use crate::Real;

/// `y = a + b`.
pub fn forward<T: Real>(s: &Add, a: &[T], b: &[T], y: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.inner {
            y[i * s.inner + j] = a[i * s.inner + j] + b[j];
        }
    }
}

/// `db += sum_i dy[i]`.
pub fn backward_b<T: Real>(s: &Add, dy: &[T], db: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.inner {
            // y[i, j] = a[i, j] + b[j]
            db[j] += dy[i * s.inner + j];
        }
    }
}

/// `y = factor * x`.
pub fn scale<T: Real>(factor: T, x: &[T], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = factor * *x;
    }
}
