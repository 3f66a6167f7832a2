//! Linear layer in plain loops: the definition of right.

use super::Linear;
use crate::Real;

/// `y = x weight^T + bias`.
pub fn forward<T: Real>(s: &Linear, x: &[T], weight: &[T], bias: Option<&[T]>, y: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.m {
            let mut sum = bias.map_or(T::ZERO, |bias| bias[j]);
            for l in 0..s.k {
                sum += x[i * s.k + l] * weight[j * s.k + l];
            }
            y[i * s.m + j] = sum;
        }
    }
}

/// Writes `dx`, adds to `dweight` and `dbias`.
pub fn backward<T: Real>(
    s: &Linear,
    x: &[T],
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
    dweight: &mut [T],
    dbias: &mut [T],
) {
    dx.fill(T::ZERO);
    for i in 0..s.n {
        for j in 0..s.m {
            let g = dy[i * s.m + j];
            dbias[j] += g;
            // y[i, j] += x[i, l] * weight[j, l]
            for l in 0..s.k {
                dx[i * s.k + l] += g * weight[j * s.k + l];
                dweight[j * s.k + l] += g * x[i * s.k + l];
            }
        }
    }
}
