//! Vector code chosen at run time, without intrinsics where plain loops suffice.
//!
//! [`simd!`](crate::simd!) compiles one body three times: for AVX-512, for AVX2 with FMA and for
//! the baseline of the target. It calls the best version that this CPU can run. Inside the body the
//! constant `FMA` says whether [`madd`] is one instruction. Functions called from a body must be
//! `#[inline(always)]`; otherwise they are compiled for the baseline only. Reductions need explicit
//! lanes (`[f32; LANES]`): the compiler may not reorder float additions.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::{KernelError, Result};

/// Vector instructions that the CPU offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The baseline of the compilation target.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors (F, BW, DQ, VL).
    Avx512,
}

impl Level {
    /// All levels, from the least to the most capable.
    pub const ALL: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        })
    }
}

/// The code that a process runs, chosen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The fastest code that this CPU can run, with the `gemm` crate for the products where it is
    /// faster. The crate splits sums by the size of the caches, so the bits of a result depend on
    /// the CPU.
    #[default]
    Auto,
    /// The code of one level, without other crates. Results are bitwise equal on any CPU that can
    /// run it, and for AVX2 and AVX-512.
    Fixed(Level),
}

impl FromStr for Choice {
    /// The accepted words.
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Choice, &'static str> {
        let fixed = Level::ALL.into_iter().find(|level| level.to_string() == text);
        match (fixed, text) {
            (Some(level), _) => Ok(Choice::Fixed(level)),
            (None, "auto") => Ok(Choice::Auto),
            (None, _) => Err("auto, avx512, avx2 or portable"),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Fixed(level) => level.fmt(f),
        }
    }
}

static CHOSEN: OnceLock<(Choice, Level)> = OnceLock::new();

fn chosen() -> (Choice, Level) {
    *CHOSEN.get_or_init(|| (Choice::Auto, detect()))
}

/// Chooses the code of this process. Call it before any arithmetic, which otherwise chooses
/// [`Choice::Auto`].
///
/// # Errors
/// A level that this CPU lacks; a choice that differs from the one already made.
pub fn choose(choice: Choice) -> Result<()> {
    let best = detect();
    let level = match choice {
        Choice::Auto => best,
        Choice::Fixed(level) => level,
    };
    if level > best {
        let can: Vec<_> = Level::ALL.into_iter().filter(|l| *l <= best).collect();
        let can = can.iter().map(Level::to_string).collect::<Vec<_>>().join(" and ");
        return Err(KernelError::Vectors { wanted: level, can });
    }
    match *CHOSEN.get_or_init(|| (choice, level)) {
        (made, _) if made == choice => Ok(()),
        (made, _) => Err(KernelError::Size {
            op: "cpu",
            what: format!("this process runs {made} code already and cannot change to {choice}"),
        }),
    }
}

/// The choice in force.
pub fn choice() -> Choice {
    chosen().0
}

/// The level in force; never more than this CPU has.
pub fn level() -> Level {
    chosen().1
}

/// The code in force in a word or two: `avx2`, or `auto (avx512)`.
pub fn described() -> String {
    match chosen() {
        (Choice::Auto, level) => format!("auto ({level})"),
        (Choice::Fixed(level), _) => level.to_string(),
    }
}

/// Whether products use only the code of this crate ([`Choice::Fixed`]).
pub(crate) fn own_products() -> bool {
    choice() != Choice::Auto
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Lanes of an explicit accumulator: one 512-bit or two 256-bit registers of f32.
pub const LANES: usize = 16;

/// Prefetches the cache line of element `at`, which need not exist. Used for rows that are too far
/// apart for the CPU to guess the next one.
#[inline(always)]
pub fn prefetch(x: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, at);
}

/// `a * b + c`, fused where the caller was compiled with FMA.
///
/// Without the instruction a fused product is a library call, some fifty times slower, so the
/// portable form rounds twice.
#[inline(always)]
pub fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adds up lanes in a fixed tree order.
#[inline(always)]
pub(crate) fn sum_lanes(mut v: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

/// Sum of `x`, with [`LANES`] partial sums.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (body, rest) = x.as_chunks::<LANES>();
    for chunk in body {
        for i in 0..LANES {
            acc[i] += chunk[i];
        }
    }
    sum_lanes(acc) + rest.iter().sum::<f32>()
}

/// Inner product of two slices of equal length, with [`LANES`] partial sums.
#[inline(always)]
pub fn dot<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (xs, xr) = x.as_chunks::<LANES>();
    let (ys, yr) = y.as_chunks::<LANES>();
    for (a, b) in xs.iter().zip(ys) {
        for i in 0..LANES {
            acc[i] = madd::<FMA>(a[i], b[i], acc[i]);
        }
    }
    let mut rest = 0.0;
    for (a, b) in xr.iter().zip(yr) {
        rest = madd::<FMA>(*a, *b, rest);
    }
    sum_lanes(acc) + rest
}

/// e to the power of `x` in f32, relative error below 2e-7; 0 below -87.3, saturating above 88.7.
/// Vectorises.
///
/// Cody-Waite reduction by ln 2 and a degree-6 polynomial (Cephes coefficients) on [-ln2/2, ln2/2].
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let clamped = x.clamp(-87.336_54, 88.722_83);
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits of the sum.
    // A cast to an integer saturates and would be done one element at a time.
    const ROUND: f32 = 12_582_912.0;
    let shifted = madd::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = madd::<FMA>(k, -0.693_359_4, clamped);
    let r = madd::<FMA>(k, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = madd::<FMA>(p, r, c);
    }
    let y = madd::<FMA>(p, r * r, r) + 1.0;
    // k is in -126..=128; two factors keep the exponent field legal at both ends.
    let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = k >> 1;
    let a = f32::from_bits((half.wrapping_add(127) as u32) << 23);
    let b = f32::from_bits((k.wrapping_sub(half).wrapping_add(127) as u32) << 23);
    let y = y * a * b;
    if x < -87.336_54 { 0.0 } else { y }
}

/// Compiles a function for each [`Level`] and dispatches at run time; see the module documentation.
///
/// ```
/// dressage_kernels::simd! {
///     /// y += a * x
///     pub fn axpy<FMA>(a: f32, x: &[f32], y: &mut [f32]) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y = dressage_kernels::cpu::simd::madd::<FMA>(a, *x, *y);
///         }
///     }
/// }
/// let mut y = [1.0; 3];
/// axpy(2.0, &[1.0, 2.0, 3.0], &mut y);
/// assert_eq!(y, [3.0, 5.0, 7.0]);
/// ```
#[macro_export]
macro_rules! simd {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$fma:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "the caller's own operands")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                match $crate::cpu::simd::level() {
                    // SAFETY: `level` has found these features on this CPU.
                    $crate::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::simd::Level::Portable => {}
                }
            }
            body::<false>($($arg),*)
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;

    simd! {
        fn exp_all<FMA>(x: &mut [f32]) {
            for x in x {
                *x = exp::<FMA>(*x);
            }
        }
    }

    #[test]
    fn exp_is_accurate_over_its_whole_range() {
        let xs: Vec<f32> = (-90_000..90_000).map(|i| i as f32 * 1e-3).collect();
        let mut ys = xs.clone();
        exp_all(&mut ys);
        for (x, y) in xs.iter().zip(&ys) {
            let want = f64::from(*x).exp();
            if *x > -87.3 && *x < 88.7 {
                assert!((f64::from(*y) - want).abs() <= 2e-7 * want, "exp({x}) = {y}, not {want}");
                let portable = f64::from(exp::<false>(*x));
                assert!((portable - want).abs() <= 4e-7 * want, "portable exp({x}) = {portable}");
            } else if *x < -87.34 {
                assert_eq!(*y, 0.0);
            }
        }
    }

    #[test]
    fn sums_agree_with_f64() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let want: f64 = x.iter().map(|&v| f64::from(v)).sum();
        assert!((f64::from(sum(&x)) - want).abs() < 1e-4);
        let want: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert!((f64::from(dot::<false>(&x, &x)) - want).abs() < 1e-3);
    }
}
