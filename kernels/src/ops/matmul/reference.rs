//! Matrix products in plain loops: the reference implementation.

use super::MatMul;
use crate::Real;
use crate::Write;

/// Computes the same as [`MatMul::run`] without checking lengths.
///
/// # Panics
/// If a slice is shorter than the sizes say.
pub fn run<T: Real>(s: &MatMul, alpha: T, a: &[T], b: &[T], write: Write, c: &mut [T]) {
    if write == Write::Over {
        let starts = if s.stride_c == 0 { 1 } else { s.batch };
        for p in 0..starts {
            c[p * s.stride_c..][..s.n * s.m].fill(T::ZERO);
        }
    }
    for p in 0..s.batch {
        let (a, b) = (&a[p * s.stride_a..], &b[p * s.stride_b..]);
        let c = &mut c[p * s.stride_c..];
        for i in 0..s.n {
            for j in 0..s.m {
                let mut sum = T::ZERO;
                for l in 0..s.k {
                    let x = if s.trans_a { a[l * s.n + i] } else { a[i * s.k + l] };
                    let y = if s.trans_b { b[j * s.k + l] } else { b[l * s.m + j] };
                    sum += x * y;
                }
                c[i * s.m + j] += alpha * sum;
            }
        }
    }
}
