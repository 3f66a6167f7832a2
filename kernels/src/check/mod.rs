//! Checks shared by the tests of all operations: random inputs, closeness, bounds. Those that panic
//! are for tests alone (feature `testing`).

pub mod bounded;
pub(crate) mod checks;
#[cfg(test)]
mod checks_tests;
pub(crate) mod operands;
mod pass;
pub mod roofline;
#[cfg(any(test, feature = "testing"))]
mod testing;
pub mod timer;
mod timings;
pub mod verify;

#[cfg(any(test, feature = "testing"))]
pub use testing::{assert_close, central_differences, fixture_dirs};

use crate::Real;
use crate::device::{Element, Float};

/// Deterministic numbers in (-1, 1) for tests and benches; not for training (see the engine's
/// Philox generator).
pub fn noise<T: Real>(n: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            T::of(((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        })
        .collect()
}

/// Largest difference divided by the largest magnitude of `want` (by 1e-30 if that is smaller).
/// Infinite if the lengths differ.
pub fn relative_error<T: Real>(got: &[T], want: &[T]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let scale = want.iter().map(|w| w.f64().abs()).fold(1e-30, f64::max);
    let worst = got.iter().zip(want).map(|(g, w)| (g.f64() - w.f64()).abs());
    // A NaN anywhere must not pass: fold with max would drop it.
    worst.fold(0.0, |a: f64, b| if b.is_nan() || b > a { b } else { a }) / scale
}

/// `sum(x * y)`: the scalar objective of a gradient check with a random incoming gradient `y`.
pub fn weighted_sum(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a * b).sum()
}

/// Values of `x` rounded to a storage type, and the same values as f64 for a reference.
pub fn stored<T: Float>(x: &[f32]) -> (Vec<T>, Vec<f64>) {
    let stored: Vec<T> = x.iter().map(|&x| T::of(x)).collect();
    let exact = stored.iter().map(|x| f64::from(x.f32())).collect();
    (stored, exact)
}

/// Values of f32 as f64, exactly.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Unit roundoff of f32: the largest relative error of one operation.
pub const UNIT: f64 = 1.0 / (1u64 << 24) as f64;

/// Largest relative error of `expf` on a GPU, in [`UNIT`]s. NVIDIA documents two units in the last
/// place, of up to two [`UNIT`]s each; the nearest number itself is half such a unit off.
/// `ex2.approx`, which `expf` uses, is within that bound. (The virtual GPU is exact there.)
pub const EXPF: f64 = 5.0;

/// Error bound of a sum of `n` products of operands of type `T`. It is in [`UNIT`]s of the sum of
/// their magnitudes.
///
/// In f32 each addition rounds once. Products of bf16 use tensor cores, whose rounding NVIDIA does
/// not document. An A100 shifts eight products and the sum so far to the largest exponent, keeps
/// one bit more than f32 has, and truncates the rest, there and in the result (Fasi et al.,
/// Numerical behavior of NVIDIA tensor cores, 2021). That is nine truncations of one unit and one
/// of two units for eight products; an H100 is finer.
pub fn sum_error<T: Float>(n: usize) -> f64 {
    if T::ROUNDING > f32::ROUNDING { 1.5 * n as f64 + 4.0 } else { n as f64 }
}

/// Compares each element of `got` with `want`. The allowed difference is the rounding of the
/// element type plus `bound(i)` for the arithmetic before it. Returns the worst error in units of
/// the allowed difference, and a description of the first element beyond it. Only as many elements
/// are compared as both slices have.
pub(crate) fn worst_error<T: Float>(
    got: &[T],
    want: &[f64],
    bound: impl Fn(usize) -> f64,
) -> (f64, Option<String>) {
    let got = got.iter().map(|got| f64::from(got.f32()));
    worst_of(got, want, f64::from(T::ROUNDING), bound)
}

/// [`worst_error`] of values that are stored with a relative error of `rounding`.
pub(crate) fn worst_of(
    got: impl Iterator<Item = f64>,
    want: &[f64],
    rounding: f64,
    bound: impl Fn(usize) -> f64,
) -> (f64, Option<String>) {
    let (mut worst, mut failure) = (0.0, None);
    for (i, (got, &want)) in got.zip(want).enumerate() {
        // The rounding applies to the computed value, which differs from `want` by up to the bound.
        // The last term is the least normal number: below it relative errors mean nothing.
        let bound = bound(i);
        let allowed = bound + rounding * (want.abs() + bound) + 1.2e-38;
        // Infinities that are equal do not differ.
        let share = if got == want { 0.0 } else { (got - want).abs() / allowed };
        // A NaN exceeds every bound.
        let share = if share.is_nan() { f64::INFINITY } else { share };
        if share > 1.0 && failure.is_none() {
            failure = Some(format!("element {i} is {got}, not {want} +- {allowed:.3e}"));
        }
        worst = share.max(worst);
    }
    (worst, failure)
}
