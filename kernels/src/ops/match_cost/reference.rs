//! Matching costs in plain loops: the reference implementation.

use super::MatchCost;
use crate::Real;
use crate::cpu::logistic::bce;

pub fn compute<T: Real>(
    s: &MatchCost,
    cls: &[T],
    labels: &[i32],
    x: &[T],
    t: &[T],
    cost: &mut [T],
) {
    for i in 0..s.q {
        let x = &x[i * s.p..][..s.p];
        for j in 0..s.g {
            let t = &t[j * s.p..][..s.p];
            let (mut entropy, mut both, mut sum_s, mut sum_t) =
                (T::ZERO, T::ZERO, T::ZERO, T::ZERO);
            for (&x, &t) in x.iter().zip(t) {
                let sigma = x.sigmoid();
                entropy += t * bce(x, T::ONE) + (T::ONE - t) * bce(x, T::ZERO);
                both += sigma * t;
                sum_s += sigma;
                sum_t += t;
            }
            let sums = [entropy, both, sum_s, sum_t];
            cost[i * s.g + j] = total(s, &cls[i * (s.k + 1)..][..s.k + 1], labels[j], sums);
        }
    }
}

/// Cost of one pair from the class logits of its query and the sums of `[BCE, s t, s, t]`.
pub(super) fn total<T: Real>(s: &MatchCost, cls: &[T], label: i32, sums: [T; 4]) -> T {
    let [entropy, both, sum_s, sum_t] = sums;
    let (one, two) = (T::ONE, T::of(2.0));
    let top = cls.iter().copied().fold(cls[0], Real::max);
    let total = cls.iter().map(|&v| (v - top).exp()).sum::<T>();
    let class = -((cls[label as usize] - top).exp() / total);
    let mask = entropy / T::of(s.p as f64);
    let dice = one - (two * both + one) / (sum_s + sum_t + one);
    T::of(s.class_weight) * class + T::of(s.mask_weight) * mask + T::of(s.dice_weight) * dice
}
