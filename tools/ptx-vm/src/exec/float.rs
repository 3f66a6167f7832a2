//! Floating-point instructions, one lane at a time.
//!
//! f32 in round-to-nearest runs natively. Directed rounding, f16 and bf16 use f64: a product of two
//! such values is exact there, and a sum is rounded to odd, which makes the second rounding
//! harmless. The `approx` instructions are computed to the last bit of f32 instead of with the
//! hardware's tables.

use super::scalar::{Mods, Rounding};
use crate::types::Ty;

/// The NaN that f32 instructions return.
pub(crate) const NAN32: u32 = 0x7FFF_FFFF;
const NAN64: u64 = 0x7FF8_0000_0000_0000;

/// Flushes a subnormal f32 to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Returns an f32 operand, flushed if the instruction says so.
pub(crate) fn input(m: &Mods, v: u64) -> f32 {
    let bits = v as u32;
    f32::from_bits(if m.ftz { flush(bits) } else { bits })
}

/// Returns the bits of an f32 result, with NaN, ftz and saturation applied.
pub(crate) fn output(m: &Mods, v: f32) -> u64 {
    if v.is_nan() {
        return if m.sat { 0 } else { u64::from(NAN32) };
    }
    // `max` first: -0 saturates to +0.
    let v = if m.sat { if v > 0.0 { v.min(1.0) } else { 0.0 } } else { v };
    let v = if m.relu && v < 0.0 { 0.0 } else { v };
    u64::from(if m.ftz { flush(v.to_bits()) } else { v.to_bits() })
}

/// A format narrower than f64: explicit mantissa bits and exponent bits.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub mantissa: u32,
    pub exponent: u32,
}

pub(crate) const F32: Format = Format { mantissa: 23, exponent: 8 };
pub(crate) const F16: Format = Format { mantissa: 10, exponent: 5 };
pub(crate) const BF16: Format = Format { mantissa: 7, exponent: 8 };
pub(crate) const TF32: Format = Format { mantissa: 10, exponent: 8 };

/// Rounds an f64 to a narrower format; returns the bits of that format. NaN gives the canonical
/// NaN.
pub(crate) fn narrow(v: f64, format: Format, rounding: Rounding) -> u64 {
    let Format { mantissa: m, exponent } = format;
    let sign = u64::from(v.is_sign_negative()) << (m + exponent);
    let infinity = ((1u64 << exponent) - 1) << m;
    if v.is_nan() {
        return infinity | ((1 << m) - 1);
    }
    if v.is_infinite() {
        return sign | infinity;
    }
    if v == 0.0 {
        return sign;
    }
    let bits = v.to_bits();
    let field = (bits >> 52 & 0x7FF) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let (e, value) =
        if field == 0 { (-1022, fraction) } else { (field - 1023, fraction | 1 << 52) };
    let bias = (1 << (exponent - 1)) - 1;
    let below = (1 - bias - e).max(0) as u32;
    // Beyond 54 bits only the fact "not zero" is left.
    let shift = (52 - m + below).min(54 + 2);
    let quotient = value >> shift;
    let rest = value & ((1 << shift) - 1);
    let half = 1u64 << (shift - 1);
    let negative = sign != 0;
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && quotient & 1 == 1),
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && rest > 0,
        Rounding::Up => !negative && rest > 0,
    };
    let quotient = quotient + u64::from(up);
    let out = if below == 0 { (((e + bias) as u64) << m) + quotient - (1 << m) } else { quotient };
    if e > bias + 1 || out >= infinity {
        let to_largest = match rounding {
            Rounding::Nearest | Rounding::NearestAway => false,
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        return sign | if to_largest { infinity - 1 } else { infinity };
    }
    sign | out
}

/// Computes the sum in f64; sets its last bit if it is inexact (round to odd).
pub(crate) fn odd_sum(a: f64, b: f64) -> f64 {
    let s = a + b;
    if !s.is_finite() {
        return s;
    }
    let bb = s - a;
    let lost = (a - (s - bb)) + (b - bb);
    if lost == 0.0 || s.to_bits() & 1 == 1 {
        return s;
    }
    // One step towards the exact value makes the last bit odd.
    let away = (lost > 0.0) == (s > 0.0);
    f64::from_bits(if away { s.to_bits() + 1 } else { s.to_bits() - 1 })
}

/// Sets the sign of a zero sum of terms of opposite sign: -0 when rounding down, else +0.
fn zero_sum(m: &Mods, a: f64, b: f64, sum: f64) -> f64 {
    let opposite = a.is_sign_negative() != b.is_sign_negative();
    if sum == 0.0 && opposite && m.rounding == Rounding::Down { -0.0 } else { sum }
}

fn finish32(m: &Mods, v: f64) -> u64 {
    output(m, f32::from_bits(narrow(v, F32, m.rounding) as u32))
}

pub fn add_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (input(m, s[0]), input(m, s[1]));
    if m.rounding == Rounding::Nearest {
        return output(m, a + b);
    }
    let (a, b) = (f64::from(a), f64::from(b));
    finish32(m, zero_sum(m, a, b, odd_sum(a, b)))
}

pub fn sub_f32(m: &Mods, s: [u64; 4]) -> u64 {
    add_f32(m, [s[0], s[1] ^ 0x8000_0000, 0, 0])
}

pub fn mul_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (input(m, s[0]), input(m, s[1]));
    if m.rounding == Rounding::Nearest {
        return output(m, a * b);
    }
    finish32(m, f64::from(a) * f64::from(b))
}

pub fn fma_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b, c) = (input(m, s[0]), input(m, s[1]), input(m, s[2]));
    let (p, c) = (f64::from(a) * f64::from(b), f64::from(c));
    finish32(m, zero_sum(m, p, c, odd_sum(p, c)))
}

/// Executes `div.rn`, `div.full` and `div.approx`, all alike.
pub fn div_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = (input(m, s[0]), input(m, s[1]));
    if m.rounding == Rounding::Nearest {
        return output(m, a / b);
    }
    // The residue of the rounded quotient shows on which side the exact one is.
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    let odd = if q.is_finite() && b != 0.0 { nudge(q, (-q).mul_add(b, a) / b) } else { q };
    finish32(m, odd)
}

/// Rounds to odd, given the rounding error.
fn nudge(v: f64, lost: f64) -> f64 {
    if lost == 0.0 || v == 0.0 || v.to_bits() & 1 == 1 {
        return v;
    }
    let away = (lost > 0.0) == (v > 0.0);
    f64::from_bits(if away { v.to_bits() + 1 } else { v.to_bits() - 1 })
}

pub fn neg_f32(m: &Mods, s: [u64; 4]) -> u64 {
    let bits = input(m, s[0]).to_bits();
    u64::from(bits ^ 0x8000_0000)
}

pub fn abs_f32(m: &Mods, s: [u64; 4]) -> u64 {
    u64::from(input(m, s[0]).to_bits() & 0x7FFF_FFFF)
}

/// Returns the smaller (`max`: larger) value. -0 is below +0; a NaN operand is ignored unless
/// `.NaN`.
fn extreme(m: &Mods, a: f64, b: f64, max: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return match (m.nan, a.is_nan()) {
            (true, _) => f64::NAN,
            (false, true) => b,
            (false, false) => a,
        };
    }
    let a_first = a < b || (a == b && a.is_sign_negative());
    if a_first != max { a } else { b }
}

fn extreme_f32(m: &Mods, s: [u64; 4], max: bool) -> u64 {
    let (a, b) = (input(m, s[0]), input(m, s[1]));
    let v = extreme(m, f64::from(a), f64::from(b), max);
    output(m, v as f32)
}

pub fn min_f32(m: &Mods, s: [u64; 4]) -> u64 {
    extreme_f32(m, s, false)
}

pub fn max_f32(m: &Mods, s: [u64; 4]) -> u64 {
    extreme_f32(m, s, true)
}

pub fn copysign_f32(_: &Mods, s: [u64; 4]) -> u64 {
    (s[0] & 0x8000_0000) | (s[1] & 0x7FFF_FFFF)
}

/// Computes a function of one f32 in f64 and rounds once.
fn unary(m: &Mods, s: [u64; 4], f: impl Fn(f64) -> f64) -> u64 {
    let v = f(f64::from(input(m, s[0])));
    finish32(m, v)
}

pub fn sqrt_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, |v| {
        let r = v.sqrt();
        if r.is_finite() { nudge(r, (-r).mul_add(r, v)) } else { r }
    })
}

pub fn rsqrt_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, |v| 1.0 / v.sqrt())
}

pub fn rcp_f32(m: &Mods, s: [u64; 4]) -> u64 {
    div_f32(m, [u64::from(1f32.to_bits()), s[0], 0, 0])
}

pub fn ex2_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, f64::exp2)
}

pub fn lg2_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, |v| if v < 0.0 { f64::NAN } else { v.log2() })
}

pub fn sin_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, f64::sin)
}

pub fn cos_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, f64::cos)
}

pub fn tanh_f32(m: &Mods, s: [u64; 4]) -> u64 {
    unary(m, s, f64::tanh)
}

/// Executes `testp`, by `m.mode`: finite, infinite, number, notanumber, normal, subnormal.
pub fn testp(m: &Mods, s: [u64; 4]) -> u64 {
    let v = to_f64(m.ty, s[0]);
    let normal = match m.ty {
        Ty::F32 => f32::from_bits(s[0] as u32).is_normal(),
        _ => v.is_normal(),
    };
    u64::from(match m.mode {
        0 => v.is_finite(),
        1 => v.is_infinite(),
        2 => !v.is_nan(),
        3 => v.is_nan(),
        4 => normal,
        _ => !normal && v.is_finite() && v != 0.0,
    })
}

/// Converts a float of any type to f64, exactly.
pub(crate) fn to_f64(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F64 => f64::from_bits(bits),
        Ty::F16 => half::f16::from_bits(bits as u16).to_f64(),
        Ty::Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// Compares floats of any type by `m.cmp`.
pub fn compare(m: &Mods, s: [u64; 4]) -> u64 {
    let (mut a, mut b) = (to_f64(m.ty, s[0]), to_f64(m.ty, s[1]));
    if m.ftz && m.ty == Ty::F32 {
        (a, b) = (f64::from(input(m, s[0])), f64::from(input(m, s[1])));
    }
    u64::from(m.cmp.holds(a.partial_cmp(&b)))
}

/// Rounds an f64 result: to nearest natively; directed modes step by the sign of the rounding
/// error.
fn finish64(m: &Mods, v: f64, lost: f64) -> u64 {
    if v.is_nan() {
        return NAN64;
    }
    let v = match m.rounding {
        _ if !v.is_finite() || lost == 0.0 => v,
        Rounding::Up if lost > 0.0 => v.next_up(),
        Rounding::Down if lost < 0.0 => v.next_down(),
        Rounding::Zero if (lost > 0.0) != (v > 0.0) => f64::from_bits(v.to_bits() - 1),
        _ => v,
    };
    v.to_bits()
}

fn two(s: [u64; 4]) -> (f64, f64) {
    (f64::from_bits(s[0]), f64::from_bits(s[1]))
}

pub fn add_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = two(s);
    let v = a + b;
    let bb = v - a;
    finish64(m, zero_sum(m, a, b, v), (a - (v - bb)) + (b - bb))
}

pub fn sub_f64(m: &Mods, s: [u64; 4]) -> u64 {
    add_f64(m, [s[0], s[1] ^ (1 << 63), 0, 0])
}

pub fn mul_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = two(s);
    let v = a * b;
    finish64(m, v, a.mul_add(b, -v))
}

pub fn fma_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let ((a, b), c) = (two(s), f64::from_bits(s[2]));
    let v = a.mul_add(b, c);
    if m.rounding == Rounding::Nearest {
        return finish64(m, v, 0.0);
    }
    let p = a * b;
    let low = a.mul_add(b, -p);
    let t = p + c;
    let tb = t - p;
    let rest = (p - (t - tb)) + (c - tb);
    finish64(m, v, (t - v) + (rest + low))
}

pub fn div_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = two(s);
    let v = a / b;
    let lost = if v.is_finite() && b != 0.0 { (-v).mul_add(b, a) / b } else { 0.0 };
    finish64(m, v, lost)
}

pub fn rcp_f64(m: &Mods, s: [u64; 4]) -> u64 {
    div_f64(m, [1f64.to_bits(), s[0], 0, 0])
}

pub fn sqrt_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let v = f64::from_bits(s[0]);
    let r = v.sqrt();
    finish64(m, r, if r.is_finite() { (-r).mul_add(r, v) } else { 0.0 })
}

pub fn rsqrt_f64(m: &Mods, s: [u64; 4]) -> u64 {
    finish64(m, 1.0 / f64::from_bits(s[0]).sqrt(), 0.0)
}

pub fn neg_f64(_: &Mods, s: [u64; 4]) -> u64 {
    s[0] ^ (1 << 63)
}

pub fn abs_f64(_: &Mods, s: [u64; 4]) -> u64 {
    s[0] & !(1 << 63)
}

pub fn min_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = two(s);
    finish64(m, extreme(m, a, b, false), 0.0)
}

pub fn max_f64(m: &Mods, s: [u64; 4]) -> u64 {
    let (a, b) = two(s);
    finish64(m, extreme(m, a, b, true), 0.0)
}

pub fn copysign_f64(_: &Mods, s: [u64; 4]) -> u64 {
    (s[0] & 1 << 63) | (s[1] & !(1 << 63))
}

/// Returns the smaller or larger value for the 16-bit types.
pub(crate) fn extreme_half(m: &Mods, a: f64, b: f64, max: bool) -> f64 {
    extreme(m, a, b, max)
}
