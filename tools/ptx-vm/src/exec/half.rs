//! f16 and bf16 arithmetic, plain and packed in pairs, one lane at a time.

use super::float::{self, BF16, F16};
use super::scalar::{Mods, Rounding};
use crate::types::Ty;

/// Returns the scalar type of a packed one.
fn element(m: &Mods) -> Ty {
    match m.ty {
        Ty::F16x2 => Ty::F16,
        Ty::Bf16x2 => Ty::Bf16,
        other => other,
    }
}

fn value(m: &Mods, ty: Ty, bits: u64) -> f64 {
    let v = float::to_f64(ty, bits & 0xFFFF);
    let tiny = ty == Ty::F16 && v.abs() < 2f64.powi(-14);
    if m.ftz && tiny { 0f64.copysign(v) } else { v }
}

/// Rounds to the 16-bit type with saturation, relu and ftz.
fn finish(m: &Mods, ty: Ty, v: f64) -> u64 {
    let mut v = v;
    if m.sat {
        v = if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) };
    }
    if m.relu && v < 0.0 {
        v = 0.0;
    }
    if ty == Ty::F16 {
        let bits = float::narrow(v, F16, Rounding::Nearest);
        return if m.ftz && bits & 0x7C00 == 0 { bits & 0x8000 } else { bits };
    }
    float::narrow(v, BF16, Rounding::Nearest)
}

/// Applies `f` to the value, or to both halves of a packed one.
fn each(m: &Mods, s: [u64; 4], f: impl Fn(f64, f64, f64) -> f64) -> u64 {
    let ty = element(m);
    let one = |shift: u32| {
        let get = |k: usize| value(m, ty, s[k] >> shift);
        finish(m, ty, f(get(0), get(1), get(2)))
    };
    if m.ty.is_packed() { one(0) | one(16) << 16 } else { one(0) }
}

pub fn add(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, _| float::odd_sum(a, b))
}

pub fn sub(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, _| float::odd_sum(a, -b))
}

pub fn mul(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, _| a * b)
}

pub fn fma(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, c| float::odd_sum(a * b, c))
}

pub fn min(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, _| float::extreme_half(m, a, b, false))
}

pub fn max(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, b, _| float::extreme_half(m, a, b, true))
}

/// Flips the sign bits only, also of NaN.
pub fn neg(m: &Mods, s: [u64; 4]) -> u64 {
    s[0] ^ if m.ty.is_packed() { 0x8000_8000 } else { 0x8000 }
}

pub fn abs(m: &Mods, s: [u64; 4]) -> u64 {
    s[0] & if m.ty.is_packed() { 0x7FFF_7FFF } else { 0x7FFF }
}

pub fn ex2(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, _, _| a.exp2())
}

pub fn tanh(m: &Mods, s: [u64; 4]) -> u64 {
    each(m, s, |a, _, _| a.tanh())
}

/// Compares one half; for a packed value the caller shifts each half into place.
pub fn compare(m: &Mods, s: [u64; 4]) -> u64 {
    let ty = element(m);
    let (a, b) = (value(m, ty, s[0]), value(m, ty, s[1]));
    u64::from(m.cmp.holds(a.partial_cmp(&b)))
}

/// Compares the upper halves.
pub fn compare_upper(m: &Mods, s: [u64; 4]) -> u64 {
    compare(m, [s[0] >> 16, s[1] >> 16, 0, 0])
}
