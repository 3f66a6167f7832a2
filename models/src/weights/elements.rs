//! Conversion of elements between files and tensors.

use std::io;

use dressage_engine::Element;
use half::{bf16, f16};
use rayon::prelude::*;

use super::scalar_type::ScalarType;

/// A type to which floats of a file are converted.
pub(super) trait FloatTarget: Element {
    fn of_f32(v: f32) -> Self;
    fn of_f64(v: f64) -> Self;
}

impl FloatTarget for f32 {
    fn of_f32(v: f32) -> f32 {
        v
    }
    fn of_f64(v: f64) -> f32 {
        v as f32
    }
}

impl FloatTarget for f64 {
    fn of_f32(v: f32) -> f64 {
        v.into()
    }
    fn of_f64(v: f64) -> f64 {
        v
    }
}

impl FloatTarget for bf16 {
    fn of_f32(v: f32) -> bf16 {
        bf16::from_f32(v)
    }
    fn of_f64(v: f64) -> bf16 {
        bf16::from_f32(to_odd(v))
    }
}

/// Decodes floats of `kind`. `bytes` has exactly the elements of `out`.
pub(super) fn decode<T: FloatTarget>(kind: ScalarType, bytes: &[u8], out: &mut [T]) {
    match kind {
        ScalarType::F64 => each(bytes, out, |b| T::of_f64(f64::from_le_bytes(b))),
        ScalarType::F32 => each(bytes, out, |b| T::of_f32(f32::from_le_bytes(b))),
        ScalarType::F16 => each(bytes, out, |b| T::of_f32(f16::from_le_bytes(b).to_f32())),
        ScalarType::Bf16 => each(bytes, out, |b| T::of_f32(bf16::from_le_bytes(b).to_f32())),
        _ => {}
    }
}

fn each<const N: usize, T: Element>(bytes: &[u8], out: &mut [T], f: impl Fn([u8; N]) -> T + Sync) {
    // For fewer elements, starting other threads costs more than the work.
    const PIECE: usize = 1 << 15;
    let piece = |out: &mut [T], bytes: &[u8]| {
        for (y, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *y = f(*b);
        }
    };
    if out.len() <= PIECE {
        return piece(out, bytes);
    }
    let pieces = out.par_chunks_mut(PIECE).zip(bytes.par_chunks(PIECE * N));
    pieces.for_each(|(out, bytes)| piece(out, bytes));
}

/// `v` rounded to odd in f32. Rounding the result to a narrower type then gives the same as
/// rounding `v` directly. If f32 cannot represent `v`, the last bit is set, so the result is never
/// halfway between two narrower numbers.
fn to_odd(v: f64) -> f32 {
    let near = v as f32;
    let back = f64::from(near);
    if back == v || !near.is_finite() {
        return near;
    }
    let towards_zero = near.to_bits() - u32::from(back.abs() > v.abs());
    f32::from_bits(towards_zero | 1)
}

/// Appends `values` as `kind`, rounded to nearest.
///
/// # Errors
/// A finite value beyond the largest of `kind`.
pub(super) fn encode(kind: ScalarType, values: &[f64], out: &mut Vec<u8>) -> io::Result<()> {
    for &v in values {
        let infinite = match kind {
            ScalarType::F64 => put(out, v.to_le_bytes(), v.is_infinite()),
            ScalarType::F32 => put(out, (v as f32).to_le_bytes(), (v as f32).is_infinite()),
            ScalarType::F16 => {
                let near = f16::from_f32(to_odd(v));
                put(out, near.to_le_bytes(), near.is_infinite())
            }
            ScalarType::Bf16 => {
                let near = bf16::from_f32(to_odd(v));
                put(out, near.to_le_bytes(), near.is_infinite())
            }
            _ => false,
        };
        if infinite && v.is_finite() {
            let (ends, wider) = match kind {
                ScalarType::F16 => ("f16 (65504)", "bf16"),
                ScalarType::Bf16 => ("bf16 (3.39e38)", "f32"),
                _ => ("f32 (3.40e38)", "the file as it is"),
            };
            let what = format!("the value {v} is beyond the range of {ends}; use {wider}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    }
    Ok(())
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N], infinite: bool) -> bool {
    out.extend(bytes);
    infinite
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_once() {
        let bf = |v: f64| bf16::of_f64(v).to_f32();
        // Halfway values round to even. Values slightly above, which f32 can or cannot represent,
        // round up.
        assert_eq!(bf(1.0 + 2f64.powi(-8)), 1.0);
        assert_eq!(bf(1.0 + 2f64.powi(-8) + 2f64.powi(-23)), 1.0 + 2f32.powi(-7));
        assert_eq!(bf(1.0 + 2f64.powi(-8) + 2f64.powi(-50)), 1.0 + 2f32.powi(-7));
        assert_eq!(bf(1.0 + 3.0 * 2f64.powi(-8) - 2f64.powi(-50)), 1.0 + 2f32.powi(-7));
        assert_eq!(bf(-1.0 - 2f64.powi(-8) - 2f64.powi(-50)), -1.0 - 2f32.powi(-7));
        assert_eq!(bf(f64::MIN_POSITIVE), 0.0);
        assert!(bf(f64::NAN).is_nan());
        let half = |v: f64| {
            let mut out = Vec::new();
            encode(ScalarType::F16, &[v], &mut out).expect("within range");
            f16::from_le_bytes([out[0], out[1]]).to_f32()
        };
        assert_eq!(half(1.0 + 2f64.powi(-11)), 1.0);
        assert_eq!(half(1.0 + 2f64.powi(-11) + 2f64.powi(-40)), 1.0 + 2f32.powi(-10));
        assert_eq!(half(65519.0), 65504.0);
    }

    #[test]
    fn what_would_become_infinite_is_refused() {
        let mut out = Vec::new();
        for (kind, v, words) in [
            (ScalarType::F16, 65520.0, ["65520", "f16", "use bf16"]),
            (ScalarType::Bf16, -3.4e38, ["-340000", "bf16", "use f32"]),
            (ScalarType::F32, 1e39, ["1000000", "f32", "as it is"]),
        ] {
            let text = encode(kind, &[1.0, v], &mut out).expect_err("beyond").to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            encode(kind, &[f64::INFINITY, f64::NAN], &mut out).expect("not finite before either");
        }
        assert!(encode(ScalarType::F64, &[f64::MAX], &mut out).is_ok());
    }
}
