//! Scalar functions.

/// Rounds to the ten stored significand bits of TF32, ties to even.
pub(super) fn tf32(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let bits = x.to_bits();
    let half = 0xfff + (bits >> 13 & 1);
    f32::from_bits(bits.wrapping_add(half) & !0x1fff)
}

const ROOT: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
const CUBIC: f64 = 0.044_715;

/// Computes GELU in its tanh form, as the epilogues do.
pub(super) fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + (ROOT * (x + CUBIC * x * x * x)).tanh())) as f32
}

/// Computes the derivative of [`gelu`].
pub(super) fn gelu_slope(x: f32) -> f32 {
    let x = f64::from(x);
    let t = (ROOT * (x + CUBIC * x * x * x)).tanh();
    let inner = ROOT * (1.0 + 3.0 * CUBIC * x * x);
    (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_keeps_eleven_bits() {
        assert_eq!(tf32(1.0 + 1.0 / 1024.0), 1.0 + 1.0 / 1024.0);
        assert_eq!(tf32(1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(tf32(1.0 + 3.0 / 2048.0), 1.0 + 2.0 / 1024.0);
        assert_eq!(tf32(-3.000_000_2), -3.0);
        assert!(tf32(f32::NAN).is_nan() && tf32(f32::INFINITY).is_infinite());
    }

    #[test]
    fn the_slope_is_the_difference_quotient() {
        for x in [-3.0f32, -0.7, 0.0, 0.4, 2.5] {
            let h = 1e-3f32;
            let quotient = (f64::from(gelu(x + h)) - f64::from(gelu(x - h))) / (2.0 * f64::from(h));
            assert!((quotient - f64::from(gelu_slope(x))).abs() < 1e-3, "{x}");
        }
        // By hand: 0.5 (1 + tanh(0.7978845608 * 1.044715)).
        assert!((gelu(1.0) - 0.841_192).abs() < 1e-6);
    }
}
