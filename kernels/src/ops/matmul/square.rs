//! Transposition of 16 x 16 squares, used to pack transposed operands.

use super::micro::LINE;
use crate::cpu::simd;
use crate::cpu::simd::Level;
use crate::simd;

/// Writes the transpose of a square with row stride `ldx` to a square with row stride `ldo`.
///
/// # Panics
/// If a slice is too short for its square.
pub fn transpose(x: &[f32], ldx: usize, out: &mut [f32], ldo: usize) {
    let end = |ld: usize| (LINE - 1) * ld + LINE;
    assert!(end(ldx) <= x.len() && end(ldo) <= out.len(), "a slice is too short for its square");
    #[cfg(target_arch = "x86_64")]
    if simd::level() == Level::Avx512 {
        // SAFETY: the CPU has AVX-512, and the slices have been checked.
        unsafe { x86::transpose(x.as_ptr(), ldx, out.as_mut_ptr(), ldo) };
        return;
    }
    by_fours(x, ldx, out, ldo);
}

simd! {
    /// Transposes in squares of four, which the compiler keeps in registers.
    fn by_fours<FMA>(x: &[f32], ldx: usize, out: &mut [f32], ldo: usize) {
        let _ = FMA;
        const SIDE: usize = 4;
        for i in (0..LINE).step_by(SIDE) {
            for j in (0..LINE).step_by(SIDE) {
                let mut rows = [[0.0f32; SIDE]; SIDE];
                for l in 0..SIDE {
                    rows[l].copy_from_slice(&x[(i + l) * ldx + j..][..SIDE]);
                }
                for l in 0..SIDE {
                    let column: [f32; SIDE] = std::array::from_fn(|p| rows[p][l]);
                    out[(j + l) * ldo + i..][..SIDE].copy_from_slice(&column);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    /// Transposes in four rounds of sixteen shuffles: pairs of elements, pairs of pairs, then
    /// quarters of the vectors twice.
    ///
    /// # Safety
    /// `x` and `out` point to squares with row strides `ldx` and `ldo`.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(x: *const f32, ldx: usize, out: *mut f32, ldo: usize) {
        let mut a = [_mm512_setzero_ps(); 16];
        let mut b = a;
        for i in 0..16 {
            // SAFETY: row i is within the square.
            a[i] = unsafe { _mm512_loadu_ps(x.add(i * ldx)) };
        }
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
            b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
        }
        for i in (0..16).step_by(4) {
            a[i] = low(b[i], b[i + 2]);
            a[i + 1] = high(b[i], b[i + 2]);
            a[i + 2] = low(b[i + 1], b[i + 3]);
            a[i + 3] = high(b[i + 1], b[i + 3]);
        }
        for i in 0..4 {
            b[i] = _mm512_shuffle_f32x4::<0x88>(a[i], a[i + 4]);
            b[i + 4] = _mm512_shuffle_f32x4::<0xdd>(a[i], a[i + 4]);
            b[i + 8] = _mm512_shuffle_f32x4::<0x88>(a[i + 8], a[i + 12]);
            b[i + 12] = _mm512_shuffle_f32x4::<0xdd>(a[i + 8], a[i + 12]);
        }
        for i in 0..8 {
            // SAFETY: rows i and i + 8 are within the square.
            unsafe {
                let (even, odd) = (out.add(i * ldo), out.add((i + 8) * ldo));
                _mm512_storeu_ps(even, _mm512_shuffle_f32x4::<0x88>(b[i], b[i + 8]));
                _mm512_storeu_ps(odd, _mm512_shuffle_f32x4::<0xdd>(b[i], b[i + 8]));
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn low(x: __m512, y: __m512) -> __m512 {
        _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)))
    }

    #[target_feature(enable = "avx512f")]
    fn high(x: __m512, y: __m512) -> __m512 {
        _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::noise;

    #[test]
    fn squares_are_turned_over() {
        let x = noise::<f32>(16 * 21, 1);
        for f in [transpose, by_fours] {
            let mut out = vec![9.0; 16 * 19];
            f(&x, 21, &mut out[..15 * 19 + 16], 19);
            for i in 0..16 {
                for j in 0..16 {
                    assert_eq!(out[j * 19 + i], x[i * 21 + j]);
                }
                assert!(i == 15 || out[i * 19 + 16..i * 19 + 19] == [9.0; 3]);
            }
        }
    }
}
