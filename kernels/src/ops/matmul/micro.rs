//! Register tiles: the innermost loops of the blocked product.
//!
//! A tile multiplies a strip of the left operand by a panel of the right one and writes the result
//! to a small buffer. Strips and panels are packed ([`super::left`], [`super::right`]) so that both
//! are read sequentially:
//! ```text
//! strip  [depth / 16][rows][16]      element (i, p) at (p / 16 * rows + i) * 16 + p % 16
//! panel  [depth][columns]
//! ```
//! A line of a strip is a line of the operand, so packing copies without transposing, and the
//! sixteen steps of a line need one address.
//!
//! Every element of a tile is one chain of fused multiply-adds along the depth for any tile size,
//! so AVX-512 and AVX2 give bitwise equal results.

use crate::cpu::simd::{Level, madd};

/// Steps of depth in a line of a strip; depths are padded to whole lines with zeros.
pub const LINE: usize = 16;

/// Elements of the largest tile.
pub const TILE: usize = 14 * 32;

/// Rows and columns of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a strip.
    pub rows: usize,
    /// Columns of a panel.
    pub columns: usize,
}

/// Loads up to `W` elements as an array, so that loops have a fixed length without bounds checks or
/// remainders.
#[inline(always)]
pub fn load<const W: usize>(x: &[f32]) -> [f32; W] {
    if let Some(x) = x.first_chunk() {
        return *x;
    }
    let mut y = [0.0; W];
    y[..x.len()].copy_from_slice(x);
    y
}

/// Tile shape that fills the registers of a CPU: 28 of 32, 12 of 16, 8 of 16.
pub fn shape(level: Level) -> Shape {
    match level {
        Level::Avx512 => Shape { rows: 14, columns: 32 },
        Level::Avx2 => Shape { rows: 6, columns: 16 },
        Level::Portable => Shape { rows: 4, columns: 8 },
    }
}

/// Multiplies the first `rows` rows of a strip by a panel; `out` is the tile row by row.
///
/// # Panics
/// If `rows` is 0 or more than a strip has.
pub fn tile(level: Level, rows: usize, strip: &[f32], panel: &[f32], out: &mut [f32; TILE]) {
    let table = match level {
        Level::Portable => &PORTABLE[..],
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &x86::AVX2[..],
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &x86::AVX512[..],
        #[cfg(not(target_arch = "x86_64"))]
        _ => &PORTABLE[..],
    };
    // SAFETY: `level` is at most the one that `simd::level` found on this CPU.
    unsafe { table[rows - 1](strip, panel, out) }
}

/// Tile kernel for a given number of rows; the CPU must support the instructions that it was
/// compiled for.
type MicroKernel = unsafe fn(&[f32], &[f32], &mut [f32; TILE]);

static PORTABLE: [MicroKernel; 4] = [portable::<1>, portable::<2>, portable::<3>, portable::<4>];

fn portable<const R: usize>(strip: &[f32], panel: &[f32], out: &mut [f32; TILE]) {
    plain::<false, R, 4, 2, 4>(strip, panel, out);
}

/// Computes `R` of `ROWS` rows by `V` vectors of `L` lanes. The compiler keeps the loops in
/// registers for tiles up to those of AVX2.
#[inline(always)]
fn plain<const FMA: bool, const R: usize, const ROWS: usize, const V: usize, const L: usize>(
    strip: &[f32],
    panel: &[f32],
    out: &mut [f32; TILE],
) {
    let mut sum = [[[0.0f32; L]; V]; R];
    let lines = strip.chunks_exact(ROWS * LINE).zip(panel.chunks_exact(V * L * LINE));
    for (a, b) in lines {
        for p in 0..LINE {
            let row = &b[p * V * L..][..V * L];
            for i in 0..R {
                let x = a[i * LINE + p];
                for v in 0..V {
                    for l in 0..L {
                        sum[i][v][l] = madd::<FMA>(x, row[v * L + l], sum[i][v][l]);
                    }
                }
            }
        }
    }
    for i in 0..R {
        for v in 0..V {
            out[(i * V + v) * L..][..L].copy_from_slice(&sum[i][v]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{LINE, MicroKernel, TILE, plain};

    pub static AVX2: [MicroKernel; 6] =
        [avx2::<1>, avx2::<2>, avx2::<3>, avx2::<4>, avx2::<5>, avx2::<6>];

    #[target_feature(enable = "avx2,fma")]
    fn avx2<const R: usize>(strip: &[f32], panel: &[f32], out: &mut [f32; TILE]) {
        plain::<true, R, 6, 2, 8>(strip, panel, out);
    }

    pub static AVX512: [MicroKernel; 14] = [
        avx512::<1>,
        avx512::<2>,
        avx512::<3>,
        avx512::<4>,
        avx512::<5>,
        avx512::<6>,
        avx512::<7>,
        avx512::<8>,
        avx512::<9>,
        avx512::<10>,
        avx512::<11>,
        avx512::<12>,
        avx512::<13>,
        avx512::<14>,
    ];

    /// Computes `R` of 14 rows by two vectors. It uses vector types because the compiler does not
    /// keep arrays of this size in registers.
    #[target_feature(enable = "avx512f")]
    fn avx512<const R: usize>(strip: &[f32], panel: &[f32], out: &mut [f32; TILE]) {
        let mut sum = [[_mm512_setzero_ps(); 2]; R];
        let lines = strip.chunks_exact(14 * LINE).zip(panel.chunks_exact(32 * LINE));
        for (a, b) in lines {
            for p in 0..LINE {
                let row = b[p * 32..].as_ptr();
                // SAFETY: a chunk of the panel holds 16 rows of 32.
                let y = unsafe { [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16))] };
                for i in 0..R {
                    let x = _mm512_set1_ps(a[i * LINE + p]);
                    sum[i][0] = _mm512_fmadd_ps(x, y[0], sum[i][0]);
                    sum[i][1] = _mm512_fmadd_ps(x, y[1], sum[i][1]);
                }
            }
        }
        for i in 0..R {
            let row = out[i * 32..(i + 1) * 32].as_mut_ptr();
            // SAFETY: a row of the tile holds 32 elements.
            unsafe {
                _mm512_storeu_ps(row, sum[i][0]);
                _mm512_storeu_ps(row.add(16), sum[i][1]);
            }
        }
    }
}
