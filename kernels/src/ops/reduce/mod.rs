//! Sums and a search for NaN and infinity over whole tensors.
//!
//! Sums run over pieces of a fixed size, and the pieces are added in order (pairwise for [`sum`]),
//! so results are bitwise equal for any number of threads. In f32 each piece has 16 partial sums,
//! which also keeps the error of a long sum small.
//! Shapes: any; [`column_sums`] takes rows `[n, c]`. Cost: one read, so it is memory-bound.
//!
//! On a GPU: the bias gradient of `[4100, 4096]` bf16 reads 34 MB; the floor on an H200 (4.3
//! TB/s) is 8 us. Column sums use at most 128 row splits and 32 columns per block
//! (`cuda/columns.cuh`). Sums of whole tensors use pieces of 16384 elements, and one block adds the
//! partial sums. The order depends only on the sizes.

mod gpu;
#[cfg(test)]
mod gpu_tests;
pub(crate) mod verify;

use rayon::prelude::*;

pub(crate) use gpu::all_finite_gpu;
pub(crate) use gpu::column_finish;
pub use gpu::{column_sums_gpu, sum_gpu};

use crate::cpu::simd;
use crate::simd;
use crate::{Real, Result, check_len, f32s, f32s_mut};

/// Elements per piece; equals `PIECE` in `reduce.cu`.
const PIECE: usize = 1 << 14;

/// Minimum rows per split of a column sum.
const ROWS: usize = 64;

simd! {
    fn sum_piece<FMA>(x: &[f32]) -> f32 {
        simd::sum(x)
    }

    fn add_rows<FMA>(x: &[f32], out: &mut [f32]) {
        for row in x.chunks_exact(out.len()) {
            for (out, x) in out.iter_mut().zip(row) {
                *out += *x;
            }
        }
    }

    fn has_bad<FMA>(x: &[f32]) -> bool {
        // All exponent bits set: infinity or NaN. No early exit, so that it vectorises.
        x.iter().fold(false, |bad, v| bad | (v.to_bits() & 0x7f80_0000 == 0x7f80_0000))
    }
}

/// Sum of all elements; 0 for none.
pub fn sum<T: Real>(x: &[T]) -> T {
    let mut parts: Vec<T> = if T::IS_F32 {
        f32s(x).par_chunks(PIECE).map(|piece| T::of(sum_piece(piece).into())).collect()
    } else {
        x.chunks(PIECE).map(|piece| piece.iter().copied().sum()).collect()
    };
    while parts.len() > 1 {
        parts = parts.chunks(2).map(|pair| pair.iter().copied().sum()).collect();
    }
    parts.first().copied().unwrap_or(T::ZERO)
}

/// Adds the sum over the rows of `x` `[n, c]` to `out` `[c]`: the gradient of a bias.
///
/// # Errors
/// `x` does not consist of whole rows `[c]`.
pub fn column_sums<T: Real>(x: &[T], n: usize, out: &mut [T]) -> Result<()> {
    check_len("column_sums", "x", x, n * out.len())?;
    if x.is_empty() {
        return Ok(());
    }
    let c = out.len();
    if T::IS_F32 {
        let rows = (PIECE / c).max(ROWS);
        let sum = |piece: &[f32]| {
            let mut part = vec![0.0; c];
            add_rows(piece, &mut part);
            part
        };
        let parts: Vec<Vec<f32>> = f32s(x).par_chunks(rows * c).map(sum).collect();
        let out = f32s_mut(out);
        parts.iter().for_each(|part| add_rows(part, out));
    } else {
        for row in x.chunks_exact(c) {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += *x);
        }
    }
    Ok(())
}

/// Index of the first infinite or NaN element; `None` if all are finite.
pub fn all_finite<T: Real>(x: &[T]) -> Option<usize> {
    let bad = |v: &T| !v.f64().is_finite();
    let piece = if T::IS_F32 { f32s(x).par_chunks(PIECE).position_first(has_bad)? } else { 0 };
    let start = piece * PIECE;
    x[start..].iter().position(bad).map(|i| start + i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, noise};

    #[test]
    fn sums_agree_with_f64() {
        for n in [0, 1, 13, PIECE, 3 * PIECE + 5] {
            let x: Vec<f32> = noise::<f32>(n, 1).iter().map(|v| v + 0.5).collect();
            let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            let want: f64 = wide.iter().sum();
            assert_close("sum", &[f64::from(sum(&x))], &[want], 1e-6);
            assert_close("sum in f64", &[sum(&wide)], &[want], 1e-13);
        }
    }

    #[test]
    fn column_sums_are_added() {
        for (n, c) in [(0, 3), (1, 1), (5, 7), (1025, 384), (3, 20000)] {
            let x = noise::<f32>(n * c, 1);
            let mut out = noise::<f32>(c, 2);
            let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (wide_x, mut want) = (wide(&x), wide(&out));
            column_sums(&x, n, &mut out).unwrap();
            column_sums(&wide_x, n, &mut want).unwrap();
            let first: f64 = (0..n).map(|i| wide_x[i * c]).sum::<f64>() + noise::<f64>(c, 2)[0];
            assert!((want[0] - first).abs() < 1e-6, "{} instead of {first}", want[0]);
            assert_close("column_sums", &wide(&out), &want, 1e-6);
        }
        let error = column_sums(&[0.0f32; 5], 2, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "column_sums: x has 5 elements, its sizes require 6");
    }

    #[test]
    fn the_first_damaged_number_is_found() {
        let mut x = noise::<f32>(5 * PIECE, 1);
        x[3] = f32::MAX;
        assert_eq!(all_finite(&x), None);
        assert_eq!(all_finite::<f64>(&[]), None);
        for (at, bad) in [(4 * PIECE + 3, f32::NAN), (2 * PIECE - 1, f32::NEG_INFINITY)] {
            x[at] = bad;
            assert_eq!(all_finite(&x), Some(at));
            let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            assert_eq!(all_finite(&wide), Some(at));
        }
    }

    #[test]
    fn same_bits_on_any_pool() {
        let x = noise::<f32>(200 * 1000, 1);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut columns = vec![0.0; 200];
                column_sums(&x, 1000, &mut columns).unwrap();
                (sum(&x), columns)
            })
        };
        assert_eq!(run(1), run(3));
    }
}
