//! Copying operands into strips, 16 x 16 elements turned over in registers where the layout asks for it.

use std::arch::x86_64::*;

/// A strip to be packed: element `(r, l)`, `r` across and `l` along the depth, lies at `r * across + l * along`.
pub struct Strips {
    pub at: *const f32,
    pub across: usize,
    pub along: usize,
    pub depth: usize,
}

/// The first `count` lanes, all for 16 or more.
#[inline(always)]
pub fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Writes `out[l * WIDTH + r]` for all `l` below the depth; rows from `count` on are zeros.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL; `s` reaches `count` rows of `depth` elements, one of its strides is 1, and `out`
/// has `depth * WIDTH` elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub unsafe fn strip<const WIDTH: usize>(s: &Strips, count: usize, out: *mut f32) {
    for first in (0..WIDTH).step_by(16) {
        let (stored, valid) = (16.min(WIDTH - first), 16.min(count.saturating_sub(first)));
        let at = s.at.wrapping_add(first * s.across);
        // SAFETY: 16 rows from `first` on, of which `valid` exist and `stored` have a place in the strip.
        unsafe {
            if s.across == 1 {
                for l in 0..s.depth {
                    let row = _mm512_maskz_loadu_ps(mask(valid), at.wrapping_add(l * s.along));
                    _mm512_mask_storeu_ps(out.add(l * WIDTH + first), mask(stored), row);
                }
                continue;
            }
            for l in (0..s.depth).step_by(16) {
                let deep = 16.min(s.depth - l);
                let mut rows = [_mm512_setzero_ps(); 16];
                for r in 0..valid {
                    rows[r] = _mm512_maskz_loadu_ps(mask(deep), at.add(r * s.across + l));
                }
                let columns = transpose(rows);
                for d in 0..deep {
                    let out = out.add((l + d) * WIDTH + first);
                    _mm512_mask_storeu_ps(out, mask(stored), columns[d]);
                }
            }
        }
    }
}

/// Turns 16 rows of 16 into columns: pairs, then quarters of a register, then quarters between registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn transpose(x: [__m512; 16]) -> [__m512; 16] {
    let mut quads = x;
    for g in (0..16).step_by(4) {
        let low = [_mm512_unpacklo_ps(x[g], x[g + 1]), _mm512_unpacklo_ps(x[g + 2], x[g + 3])];
        let high = [_mm512_unpackhi_ps(x[g], x[g + 1]), _mm512_unpackhi_ps(x[g + 2], x[g + 3])];
        let low = low.map(|v| _mm512_castps_pd(v));
        let high = high.map(|v| _mm512_castps_pd(v));
        quads[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
        quads[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
        quads[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
        quads[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
    }
    // Quarter q of quads[4 g + c] is column 4 q + c of rows 4 g .. 4 g + 4.
    let mut out = quads;
    for c in 0..4 {
        let even = [
            _mm512_shuffle_f32x4::<0x88>(quads[c], quads[4 + c]),
            _mm512_shuffle_f32x4::<0x88>(quads[8 + c], quads[12 + c]),
        ];
        let odd = [
            _mm512_shuffle_f32x4::<0xdd>(quads[c], quads[4 + c]),
            _mm512_shuffle_f32x4::<0xdd>(quads[8 + c], quads[12 + c]),
        ];
        out[c] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        out[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
    out
}
