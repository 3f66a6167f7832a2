//! Small matrix products on data in cache: the inner loop of attention.
//!
//! A general matrix product is efficient only on large operands. Here one operand is packed once
//! and multiplied many times. Row and column counts are padded, so no edge needs code of its own.
//! The left operand may be read along either axis, so the transposed products of the backward pass
//! need no copies.

use crate::cpu::simd;
use crate::cpu::simd::{LANES, Level, madd};
use crate::ops::matmul::transpose;
use crate::simd;

/// Columns of a full panel: four vectors.
pub(crate) const PANEL: usize = 4 * LANES;

/// Required divisor of all row counts.
pub(crate) const ROW_STEP: usize = 8;

/// Depth multiplied before the next rows: a panel of this depth takes 32 KiB.
const DEPTH: usize = 128;

/// Rows that are prefetched ahead of the row being packed.
const AHEAD: usize = 8;

/// `n` padded to whole vectors.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// A left operand: element (i, p) is `x[i * row + p * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub x: &'a [f32],
    pub row: usize,
    pub col: usize,
}

/// Packs `b[k, n]` into panels of 64 columns, with zeros up to `padded(n)`. The rows of `b` begin
/// `stride` apart.
pub(crate) fn pack(b: &[f32], stride: usize, k: usize, n: usize, scale: f32, out: &mut [f32]) {
    for (p, panel) in out[..k * padded(n)].chunks_mut(PANEL * k.max(1)).enumerate() {
        let width = panel.len() / k;
        let used = width.min(n - p * PANEL);
        for (i, row) in panel.chunks_exact_mut(width).enumerate() {
            for line in (0..used).step_by(LANES) {
                simd::prefetch(b, (i + AHEAD) * stride + p * PANEL + line);
            }
            for (o, v) in row.iter_mut().zip(&b[i * stride + p * PANEL..][..used]) {
                *o = scale * v;
            }
            row[used..].fill(0.0);
        }
    }
}

simd! {
    /// Packs the transpose of `x[n, k]` as [`pack`] would. The rows of `x` begin `stride` apart.
    pub(crate) fn pack_transposed<FMA>(
        x: &[f32], stride: usize, k: usize, n: usize, out: &mut [f32],
    ) {
        let _ = FMA;
        for (p, panel) in out[..k * padded(n)].chunks_mut(PANEL * k.max(1)).enumerate() {
            let width = panel.len() / k;
            let used = width.min(n - p * PANEL);
            let x = &x[p * PANEL * stride..];
            let (squares, deep) = (used - used % LANES, k - k % LANES);
            for j in (0..squares).step_by(LANES) {
                for l in 0..LANES {
                    for i in (0..deep).step_by(LANES) {
                        simd::prefetch(x, (j + LANES + l) * stride + i);
                    }
                }
                for i in (0..deep).step_by(LANES) {
                    transpose(&x[j * stride + i..], stride, &mut panel[i * width + j..], width);
                }
            }
            for j in 0..used {
                for i in if j < squares { deep } else { 0 }..k {
                    panel[i * width + j] = x[j * stride + i];
                }
            }
            for row in panel.chunks_exact_mut(width) {
                row[used..].fill(0.0);
            }
        }
    }
}

/// Sizes of a product `c[m, n] = a[m, k] b[k, n]`. `m` is a multiple of [`ROW_STEP`], `n` of
/// [`LANES`].
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Distance between rows of `c`.
    pub ldc: usize,
    /// Whether to add to `c` instead of overwriting it.
    pub add: bool,
}

/// Multiplies by a packed right operand.
///
/// # Panics
/// If a size is not padded or an operand is too short: the inner loops rely on both.
pub(crate) fn product(s: Product, a: Left<'_>, b: &[f32], c: &mut [f32]) {
    if s.m == 0 || s.n == 0 {
        return;
    }
    assert!(s.m.is_multiple_of(ROW_STEP) && s.n.is_multiple_of(LANES) && s.k > 0);
    assert!((s.m - 1) * a.row + (s.k - 1) * a.col < a.x.len(), "left operand too short");
    assert!(s.k * s.n <= b.len(), "right operand too short");
    assert!(s.n <= s.ldc && (s.m - 1) * s.ldc + s.n <= c.len(), "result too short");
    match simd::level() {
        Level::Avx512 => wide(s, a, b, c),
        Level::Avx2 | Level::Portable => narrow(s, a, b, c),
    }
}

simd! {
    /// Multiplies with 32 registers of 16 floats.
    fn wide<FMA>(s: Product, a: Left, b: &[f32], c: &mut [f32]) {
        for from in (0..s.k).step_by(DEPTH) {
            let depth = DEPTH.min(s.k - from);
            let add = s.add || from > 0;
            for column in (0..s.n).step_by(PANEL) {
                let width = PANEL.min(s.n - column);
                let b = &b[column * s.k + from * width..][..depth * width];
                let step = if width == PANEL { ROW_STEP / 2 } else { ROW_STEP };
                for i in (0..s.m).step_by(step) {
                    let a = Left { x: &a.x[i * a.row + from * a.col..], ..a };
                    let c = &mut c[i * s.ldc + column..];
                    match width / LANES {
                        1 => block::<FMA, 8, 1>(depth, a, b, width, c, s.ldc, add),
                        2 => block::<FMA, 8, 2>(depth, a, b, width, c, s.ldc, add),
                        3 => block::<FMA, 8, 3>(depth, a, b, width, c, s.ldc, add),
                        _ => block::<FMA, 4, 4>(depth, a, b, width, c, s.ldc, add),
                    }
                }
            }
        }
    }

    /// Multiplies with 16 registers of 8 floats or fewer.
    fn narrow<FMA>(s: Product, a: Left, b: &[f32], c: &mut [f32]) {
        for from in (0..s.k).step_by(DEPTH) {
            let depth = DEPTH.min(s.k - from);
            let add = s.add || from > 0;
            for column in (0..s.n).step_by(PANEL) {
                let width = PANEL.min(s.n - column);
                let b = &b[column * s.k + from * width..][..depth * width];
                for i in (0..s.m).step_by(4) {
                    let a = Left { x: &a.x[i * a.row + from * a.col..], ..a };
                    for j in (0..width).step_by(LANES) {
                        let c = &mut c[i * s.ldc + column + j..];
                        block::<FMA, 4, 1>(depth, a, &b[j..], width, c, s.ldc, add);
                    }
                }
            }
        }
    }
}

/// Computes `R` rows by `V` vectors of the result, kept in registers over the whole depth.
#[inline(always)]
fn block<const FMA: bool, const R: usize, const V: usize>(
    depth: usize,
    a: Left<'_>,
    b: &[f32],
    ldb: usize,
    c: &mut [f32],
    ldc: usize,
    add: bool,
) {
    let mut acc = [[[0.0f32; LANES]; V]; R];
    for p in 0..depth {
        let row = &b[p * ldb..][..V * LANES];
        for i in 0..R {
            // SAFETY: `product` has checked the last row and column of the left operand.
            let x = unsafe { *a.x.get_unchecked(i * a.row + p * a.col) };
            for v in 0..V {
                for l in 0..LANES {
                    acc[i][v][l] = madd::<FMA>(x, row[v * LANES + l], acc[i][v][l]);
                }
            }
        }
    }
    for i in 0..R {
        let row = &mut c[i * ldc..][..V * LANES];
        for v in 0..V {
            for l in 0..LANES {
                let old = if add { row[v * LANES + l] } else { 0.0 };
                row[v * LANES + l] = old + acc[i][v][l];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, noise};

    #[test]
    fn products_match_plain_loops() {
        for (m, n, k) in [(8, 1, 1), (8, 17, 3), (24, 64, 64), (16, 100, 130), (8, 130, 300)] {
            let (a, b, start) = (noise::<f32>(m * k, 1), noise::<f32>(k * n, 2), noise(m * n, 3));
            let mut want: Vec<f32> = start.clone();
            for (i, row) in want.chunks_exact_mut(n).enumerate() {
                for (j, c) in row.iter_mut().enumerate() {
                    *c += (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum::<f32>();
                }
            }
            let at: Vec<f32> = (0..k * m).map(|x| a[x % m * k + x / m]).collect();
            let bt: Vec<f32> = (0..k * n).map(|x| b[x % k * n + x / k]).collect();
            let (mut packed, mut packed_t) = (vec![9.0; k * padded(n)], vec![9.0; k * padded(n)]);
            pack(&b, n, k, n, 1.0, &mut packed);
            pack_transposed(&bt, k, k, n, &mut packed_t);
            assert_eq!(packed, packed_t);
            let (ldc, s) = (padded(n), Product { m, n: padded(n), k, ldc: padded(n), add: true });
            for a in [Left { x: &a, row: k, col: 1 }, Left { x: &at, row: 1, col: m }] {
                for f in [product, wide, narrow] {
                    let mut c = vec![0.0f32; m * ldc];
                    for (c, s) in c.chunks_exact_mut(ldc).zip(start.chunks_exact(n)) {
                        c[..n].copy_from_slice(s);
                    }
                    f(s, a, &packed, &mut c);
                    let got: Vec<f32> = c.chunks(ldc).flat_map(|c| c[..n].to_vec()).collect();
                    assert_close("c", &got, &want, 1e-5);
                }
            }
        }
    }
}
