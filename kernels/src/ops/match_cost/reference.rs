//! Matching costs in plain loops: the reference implementation.

use super::{Forward, MatchCost, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::cpu::logistic::bce;
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = MatchCost;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &MatchCost, c: Forward<'_, Host, U>) {
        let Forward { cls, labels, x, t, cost } = c;
        for (at, cost) in cost.iter_mut().enumerate() {
            let (query, target) = (at / s.g, at / (s.q * s.g) * s.g + at % s.g);
            let (x, t) = (&x[query * s.p..][..s.p], &t[target * s.p..][..s.p]);
            let [mut entropy, mut both, mut sum_s, mut sum_t] = [U::ZERO; 4];
            for (&x, &t) in x.iter().zip(t) {
                let sigma = x.sigmoid();
                entropy += t * bce(x, U::ONE) + (U::ONE - t) * bce(x, U::ZERO);
                both += sigma * t;
                sum_s += sigma;
                sum_t += t;
            }
            let cls = &cls[query * (s.k + 1)..][..s.k + 1];
            *cost = total(s, cls, labels[target], [entropy, both, sum_s, sum_t]);
        }
    }

    fn fast(s: &MatchCost, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

/// Cost of one pair from the class logits of its query and the sums of `[BCE, s t, s, t]`.
pub(super) fn total<T: Real>(s: &MatchCost, cls: &[T], label: i32, sums: [T; 4]) -> T {
    let Some(label) = s.class(label) else { return T::ZERO };
    let [entropy, both, sum_s, sum_t] = sums;
    let (one, two) = (T::ONE, T::of(2.0));
    let top = cls.iter().copied().fold(cls[0], Real::max);
    let total = cls.iter().map(|&v| (v - top).exp()).sum::<T>();
    let class = -((cls[label] - top).exp() / total);
    let mask = entropy / T::of(s.p as f64);
    let dice = one - (two * both + one) / (sum_s + sum_t + one);
    T::of(s.class_weight) * class + T::of(s.mask_weight) * mask + T::of(s.dice_weight) * dice
}
