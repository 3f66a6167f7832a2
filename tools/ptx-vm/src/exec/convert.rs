//! `cvt` in all its forms, one lane at a time.

use super::float::{self, BF16, F16, F32, Format, TF32};
use super::int::{sext, zext};
use super::scalar::{Mods, Rounding};
use crate::types::Ty;

fn format(ty: Ty) -> Format {
    match ty {
        Ty::F16 | Ty::F16x2 => F16,
        Ty::Bf16 | Ty::Bf16x2 => BF16,
        Ty::Tf32 => TF32,
        _ => F32,
    }
}

/// Extends the result if the register is wider than the type.
fn int_result(m: &Mods, v: i128) -> u64 {
    let bits = m.ty.bits();
    if m.ty.is_signed() && m.register > bits {
        return zext(sext(v as u64, bits) as u64, m.register);
    }
    zext(v as u64, bits)
}

fn int_limits(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

fn int_source(m: &Mods, v: u64) -> i128 {
    let bits = m.from.bits();
    if m.from.is_signed() { i128::from(sext(v, bits)) } else { i128::from(zext(v, bits)) }
}

/// Converts integer to integer.
pub fn int_to_int(m: &Mods, s: [u64; 4]) -> u64 {
    let v = int_source(m, s[0]);
    let (low, high) = int_limits(m.ty);
    int_result(m, if m.sat { v.clamp(low, high) } else { v })
}

/// Rounds to a whole number.
fn whole(v: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest | Rounding::NearestAway => v.round_ties_even(),
        Rounding::Zero => v.trunc(),
        Rounding::Down => v.floor(),
        Rounding::Up => v.ceil(),
    }
}

fn source(m: &Mods, v: u64) -> f64 {
    if m.ftz && m.from == Ty::F32 {
        return f64::from(float::input(m, v));
    }
    float::to_f64(m.from, v)
}

/// Converts float to integer: clamped to the type, NaN to zero.
pub fn float_to_int(m: &Mods, s: [u64; 4]) -> u64 {
    let v = whole(source(m, s[0]), m.rounding);
    let (low, high) = int_limits(m.ty);
    int_result(m, if v.is_nan() { 0 } else { (v as i128).clamp(low, high) })
}

/// Converts integer to float.
pub fn int_to_float(m: &Mods, s: [u64; 4]) -> u64 {
    let v = int_source(m, s[0]);
    let near = v as f64;
    let lost = if near.abs() < 1e30 { v - near as i128 } else { 0 };
    if m.ty == Ty::F64 {
        let up = match m.rounding {
            Rounding::Up => lost > 0,
            Rounding::Down => lost < 0,
            Rounding::Zero => lost != 0 && (lost > 0) != (v > 0),
            _ => false,
        };
        return match (up, m.rounding, v > 0) {
            (false, ..) => near.to_bits(),
            (_, Rounding::Up, _) => near.next_up().to_bits(),
            (_, Rounding::Zero, false) => near.next_up().to_bits(),
            _ => near.next_down().to_bits(),
        };
    }
    // Rounds to odd in f64, then once to the narrow type.
    let odd = if lost == 0 || near.to_bits() & 1 == 1 {
        near
    } else if (lost > 0) == (v > 0) {
        f64::from_bits(near.to_bits() + 1)
    } else {
        f64::from_bits(near.to_bits() - 1)
    };
    float::narrow(odd, format(m.ty), m.rounding)
}

/// Applies saturation, relu and satfinite (`nan` here) and rounds to the destination.
fn finish(m: &Mods, v: f64) -> u64 {
    let mut v = if m.integral { whole(v, m.rounding) } else { v };
    if m.sat {
        v = if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) };
    }
    if m.relu && v <= 0.0 {
        v = 0.0;
    }
    match m.ty {
        Ty::F64 if v.is_nan() => 0x7FF8_0000_0000_0000,
        Ty::F64 => v.to_bits(),
        Ty::Tf32 => float::narrow(v, TF32, m.rounding) << 13,
        Ty::F32 => {
            let bits = float::narrow(v, F32, m.rounding) as u32;
            u64::from(if m.ftz { float::flush(bits) } else { bits })
        }
        other => {
            let format = format(other);
            let bits = float::narrow(v, format, m.rounding);
            let infinity = ((1u64 << format.exponent) - 1) << format.mantissa;
            let infinite = bits & 0x7FFF == infinity;
            if m.nan && infinite { bits - 1 } else { bits }
        }
    }
}

/// Converts float to float, including rounding to whole numbers in the same type.
pub fn float_to_float(m: &Mods, s: [u64; 4]) -> u64 {
    finish(m, source(m, s[0]))
}

/// Converts two f32 to a pair: the first becomes the upper half.
pub fn pair(m: &Mods, s: [u64; 4]) -> u64 {
    let upper = finish(m, source(m, s[0]));
    let lower = finish(m, source(m, s[1]));
    upper << 16 | lower
}
