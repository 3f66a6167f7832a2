//! Sigmoid and binary cross-entropy of logits, shared by the losses, the matching costs and the
//! score maps.
//!
//! ```text
//! BCE(x, t) = max(x, 0) - x t + log(1 + exp(-|x|))
//! BCE(x, 0) = max(x, 0) + log(1 + exp(-|x|))       BCE(x, 1) = max(-x, 0) + log(1 + exp(-|x|))
//! ```

use crate::Real;
use crate::cpu::simd;

/// `BCE(x, t)`, spec mask2former (conventions).
pub(crate) fn bce<T: Real>(x: T, t: T) -> T {
    x.max(T::ZERO) - x * t + (-x.abs()).exp().ln_1p()
}

/// `(sigmoid(x), log(1 + exp(-|x|)))` from one exponential; vectorises.
///
/// The logarithm is `2 artanh(e / (2 + e))` as a series: with e in (0, 1] the argument is at most
/// 1/3, and seven terms leave a relative error of 2e-8.
#[inline(always)]
pub(crate) fn sigmoid_and_log<const FMA: bool>(x: f32) -> (f32, f32) {
    let e = simd::exp::<FMA>(-x.abs());
    let s = e / (2.0 + e);
    let s2 = s * s;
    let mut series = 2.0 / 13.0;
    for c in [2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        series = simd::madd::<FMA>(series, s2, c);
    }
    let sigmoid = (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e);
    (sigmoid, s * series)
}

/// `sigmoid(x)`; vectorises.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    let e = simd::exp::<FMA>(-x.abs());
    (if x >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd;

    simd! {
        fn both<FMA>(x: &[f32], s: &mut [f32], l: &mut [f32]) {
            for ((x, s), l) in x.iter().zip(s).zip(l) {
                (*s, *l) = sigmoid_and_log::<FMA>(*x);
            }
        }
    }

    #[test]
    fn accurate_relative_to_the_value() {
        let x: Vec<f32> = (-8000..=8000).map(|i| i as f32 * 0.01).collect();
        let (mut s, mut l) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        both(&x, &mut s, &mut l);
        for ((x, s), l) in x.iter().zip(&s).zip(&l) {
            let wide = f64::from(*x);
            let (want_s, want_l) = (wide.sigmoid(), (-wide.abs()).exp().ln_1p());
            assert!((f64::from(*s) - want_s).abs() <= 4e-7 * want_s, "sigmoid({x}) = {s}");
            assert!((f64::from(*l) - want_l).abs() <= 4e-7 * want_l, "log term of {x} = {l}");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for x in [1e30f32, -1e30, f32::INFINITY, f32::NEG_INFINITY] {
            let (s, l) = sigmoid_and_log::<false>(x);
            assert_eq!((s, l), (if x > 0.0 { 1.0 } else { 0.0 }, 0.0));
        }
        assert!(sigmoid_and_log::<false>(f32::NAN).0.is_nan());
    }
}
