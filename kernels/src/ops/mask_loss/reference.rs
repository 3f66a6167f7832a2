//! Mask losses in plain loops: the reference implementation.

use super::{MaskLoss, MaskLosses};
use crate::Real;
use crate::cpu::logistic::bce;

/// Writes the sums of each pair and returns the sum of all cross-entropies.
pub fn forward<T: Real>(s: &MaskLoss, x: &[T], t: &[T], sums: &mut [T]) -> T {
    sums.fill(T::ZERO);
    let mut total = T::ZERO;
    for i in 0..s.r {
        for j in i * s.p..(i + 1) * s.p {
            let sigma = x[j].sigmoid();
            total += bce(x[j], t[j]);
            sums[i * 3] += sigma;
            sums[i * 3 + 1] += t[j];
            sums[i * 3 + 2] += sigma * t[j];
        }
    }
    total
}

/// Writes `dx`; `d` are the gradients of the plain sums.
pub fn backward<T: Real>(
    s: &MaskLoss,
    x: &[T],
    t: &[T],
    sums: &[T],
    d: MaskLosses<T>,
    dx: &mut [T],
) {
    for i in 0..s.r {
        let (top, den) = MaskLoss::ratio(&sums[i * 3..][..3]);
        for j in i * s.p..(i + 1) * s.p {
            let sigma = x[j].sigmoid();
            // total += BCE(x, t); dice += 1 - top / den with top and den depending on sigma(x)
            let slope = sigma * (T::ONE - sigma) * (T::of(2.0) * t[j] * den - top) / (den * den);
            dx[j] = d.mask * (sigma - t[j]) - d.dice * slope;
        }
    }
}
