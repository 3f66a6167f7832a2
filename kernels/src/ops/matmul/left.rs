//! Left operand: its storage and the operation applied while it is packed into strips.
//!
//! Packing reads every element once and writes it into memory that stays in cache. So a pointwise
//! operation on the operand is fused into packing and needs no separate pass and tensor.

use std::ops::Range;

use super::micro::{LINE, load};
use super::square::transpose;
use crate::cpu::simd::madd;
use crate::ops::activation::gelu;
use crate::ops::layer_norm::Normed;
use crate::simd;

/// Left operand `[n, k]`.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `x[n, k]`.
    Rows(&'a [f32]),
    /// The transpose of `x[k, n]`.
    Columns(&'a [f32]),
    /// Layer norm of `z[n, k]`.
    Normed(Normed<'a, f32>),
    /// `gelu(x[n, k])`.
    Gelu(&'a [f32]),
    /// `x[n, k] gamma[k]`.
    Scaled { x: &'a [f32], gamma: &'a [f32] },
}

/// Sizes of the operand and of its strips.
#[derive(Clone, Copy)]
pub struct PackSizes {
    pub n: usize,
    pub k: usize,
    /// Rows per strip.
    pub strip: usize,
}

impl Left<'_> {
    /// Packs `rows` (of one strip) and `depth` into `out`, zero-padded to a whole line. Missing
    /// rows of a partial strip are not written.
    pub fn pack(&self, s: PackSizes, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
        let part = rows.start * s.k..rows.end * s.k;
        let columns = depth.clone();
        match *self {
            Self::Rows(x) => plain_rows(&x[part], s, depth, out),
            Self::Columns(x) => turned(x, s, rows, depth, out),
            Self::Normed(norm) => {
                let norm = Normed {
                    z: &norm.z[part],
                    mean: &norm.mean[rows.clone()],
                    rstd: &norm.rstd[rows],
                    weight: &norm.weight[columns.clone()],
                    bias: &norm.bias[columns],
                };
                normed_rows(norm, s, depth, out);
            }
            Self::Gelu(x) => gelu_rows(&x[part], s, depth, out),
            Self::Scaled { x, gamma } => scaled_rows(&x[part], s, depth, &gamma[columns], out),
        }
    }
}

/// Operation on the elements of an operand while it is packed. It is a trait and not a closure,
/// because closures are compiled without the vector instructions of the enclosing function unless
/// the compiler inlines them.
trait Change {
    /// Returns the new line from line `x`, which begins at `column` of row `row` of the packed
    /// part.
    fn line<const FMA: bool>(&self, row: usize, column: usize, x: [f32; LINE]) -> [f32; LINE];
}

struct Keep;
impl Change for Keep {
    #[inline(always)]
    fn line<const FMA: bool>(&self, _: usize, _: usize, x: [f32; LINE]) -> [f32; LINE] {
        x
    }
}

struct Gelu;
impl Change for Gelu {
    #[inline(always)]
    fn line<const FMA: bool>(&self, _: usize, _: usize, mut x: [f32; LINE]) -> [f32; LINE] {
        for l in 0..LINE {
            x[l] = gelu::<FMA>(x[l]);
        }
        x
    }
}

impl Change for Normed<'_, f32> {
    #[inline(always)]
    fn line<const FMA: bool>(&self, row: usize, column: usize, x: [f32; LINE]) -> [f32; LINE] {
        let (mean, rstd) = (self.mean[row], self.rstd[row]);
        let (weight, bias) = (line_of(self.weight, column), line_of(self.bias, column));
        let mut y = x;
        for l in 0..LINE {
            y[l] = madd::<FMA>((x[l] - mean) * rstd, weight[l], bias[l]);
        }
        y
    }
}

struct Scale<'a>(&'a [f32]);
impl Change for Scale<'_> {
    #[inline(always)]
    fn line<const FMA: bool>(&self, _: usize, column: usize, mut x: [f32; LINE]) -> [f32; LINE] {
        let gamma = line_of(self.0, column);
        for l in 0..LINE {
            x[l] *= gamma[l];
        }
        x
    }
}

/// Packs the columns `depth` of `x`, with rows of `k`, into a strip.
///
/// Handles the strip in steps of four lines: long enough for the hardware prefetcher to detect the
/// sequential reads, short enough for the output to stay in L1.
#[inline(always)]
fn fill<const FMA: bool>(
    x: &[f32],
    s: PackSizes,
    depth: Range<usize>,
    out: &mut [f32],
    change: impl Change,
) {
    const STEP: usize = 4;
    for (q, lines) in out.chunks_mut(STEP * s.strip * LINE).enumerate() {
        let lines = lines.as_chunks_mut().0;
        for (i, row) in x.chunks_exact(s.k).enumerate() {
            for (p, line) in lines[i..].iter_mut().step_by(s.strip).enumerate() {
                let column = (q * STEP + p) * LINE;
                let at = depth.start + column;
                let deep = depth.end.saturating_sub(at).min(LINE);
                *line = change.line::<FMA>(i, column, load(&row[at..at + deep]));
                line[deep..].fill(0.0);
            }
        }
    }
}

simd! {
    fn plain_rows<FMA>(x: &[f32], s: PackSizes, depth: Range<usize>, out: &mut [f32]) {
        fill::<FMA>(x, s, depth, out, Keep);
    }

    fn normed_rows<FMA>(norm: Normed<f32>, s: PackSizes, depth: Range<usize>, out: &mut [f32]) {
        fill::<FMA>(norm.z, s, depth, out, norm);
    }

    fn gelu_rows<FMA>(x: &[f32], s: PackSizes, depth: Range<usize>, out: &mut [f32]) {
        fill::<FMA>(x, s, depth, out, Gelu);
    }

    fn scaled_rows<FMA>(
        x: &[f32], s: PackSizes, depth: Range<usize>, gamma: &[f32], out: &mut [f32]
    ) {
        fill::<FMA>(x, s, depth, out, Scale(gamma));
    }
}

/// Line of `x` that begins at `at`.
#[inline(always)]
fn line_of(x: &[f32], at: usize) -> [f32; LINE] {
    load(&x[at..x.len().min(at + LINE)])
}

/// Packs rows `rows` and depth `depth` of the transpose of `x[k, n]`.
fn turned(x: &[f32], s: PackSizes, rows: Range<usize>, depth: Range<usize>, out: &mut [f32]) {
    let mut square = [0.0; LINE * LINE];
    for (q, p) in depth.clone().step_by(LINE).enumerate() {
        let deep = LINE.min(depth.end - p);
        let x = &x[p * s.n + rows.start..];
        let lines = &mut out[q * s.strip * LINE..];
        // A strip may be narrower than the square and end before it.
        if deep == LINE && rows.start + LINE <= s.n && rows.len() <= LINE {
            transpose(x, s.n, &mut square, LINE);
            lines[..rows.len() * LINE].copy_from_slice(&square[..rows.len() * LINE]);
            continue;
        }
        for (i, line) in lines.chunks_exact_mut(LINE).take(rows.len()).enumerate() {
            for (l, o) in line.iter_mut().enumerate() {
                *o = if l < deep { x[l * s.n + i] } else { 0.0 };
            }
        }
    }
}
