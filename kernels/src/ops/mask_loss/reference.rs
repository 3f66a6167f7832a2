//! Mask losses in plain loops: the reference implementation.

use super::{Backward, Forward, MaskLoss, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::cpu::logistic::bce;
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = MaskLoss;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &MaskLoss, c: Forward<'_, Host, U>) {
        let Forward { x, t, num, weights, sums, losses } = c;
        sums.fill(U::ZERO);
        for (i, sums) in sums.chunks_exact_mut(4).enumerate() {
            for j in i * s.p..(i + 1) * s.p {
                let sigma = x[j].sigmoid();
                sums[0] += sigma;
                sums[1] += t[j];
                sums[2] += sigma * t[j];
                sums[3] += bce(x[j], t[j]);
            }
        }
        finish(weights, sums, s.scales(num[0]), losses);
    }

    fn fast(s: &MaskLoss, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

/// Writes the losses of all pairs from their sums.
pub fn finish<T: Real>(weights: Option<&[T]>, sums: &[T], scales: [T; 2], losses: &mut [T]) {
    let (mut mask, mut dice) = (T::ZERO, T::ZERO);
    for (i, sums) in sums.chunks_exact(4).enumerate() {
        let (top, den) = MaskLoss::ratio(sums);
        let weight = weights.map_or(T::ONE, |weights| weights[i]);
        mask += weight * sums[3];
        dice += weight * (T::ONE - top / den);
    }
    losses[0] = mask * scales[0];
    losses[1] = dice * scales[1];
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = MaskLoss;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &MaskLoss, c: Backward<'_, Host, U>) {
        let Backward { x, t, num, weights, sums, dlosses, dx } = c;
        let [mask, dice] = s.scales(num[0]);
        for (i, sums) in sums.chunks_exact(4).enumerate() {
            let (top, den) = MaskLoss::ratio(sums);
            let weight = weights.map_or(U::ONE, |weights| weights[i]);
            let (mask, dice) = (weight * dlosses[0] * mask, weight * dlosses[1] * dice);
            for j in i * s.p..(i + 1) * s.p {
                let sigma = x[j].sigmoid();
                // losses += BCE(x, t) and 1 - top / den, where top and den depend on sigma(x)
                let slope =
                    sigma * (U::ONE - sigma) * (U::of(2.0) * t[j] * den - top) / (den * den);
                dx[j] = mask * (sigma - t[j]) - dice * slope;
            }
        }
    }

    fn fast(s: &MaskLoss, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
