//! Resampling in f32, one output row at a time. The input rows of an output row are blended into
//! one, then that row is resampled along its width. The blended row stays in the cache.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::Taps;
use crate::cpu::simd::{LANES, madd};
use crate::simd;

/// Minimum output elements per task. Fixed; every output element is computed independently anyway.
const TASK: usize = 1 << 15;

thread_local! {
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Floats blended at once: accumulators that stay in registers during the loop over the taps.
const BLOCK: usize = 4 * LANES;

simd! {
    /// `out = sum_k weight[k] * input[(index[k] - first) * stride..]`, over the length of `out`.
    fn blend<FMA>(
        input: &[f32], stride: usize, first: usize, index: &[u32], weight: &[f64], out: &mut [f32],
    ) {
        blend_body::<FMA>(input, stride, first, index, weight, out);
    }

    /// Resamples one row of pixels with `c` channels.
    fn along_channels<FMA>(x: &Taps, c: usize, row: &[f32], out: &mut [f32]) {
        for (j, out) in out.chunks_exact_mut(c).enumerate() {
            let (index, weight) = x.row(j);
            blend_body::<FMA>(row, c, 0, index, weight, out);
        }
    }

    /// Resamples one row of single values.
    fn along_width<FMA>(x: &Taps, row: &[f32], out: &mut [f32]) {
        assert!(row.len() >= x.n_in && out.len() == x.n_out);
        for k in 0..x.width {
            let index = &x.index_by_tap[k * x.n_out..][..x.n_out];
            let weight = &x.weight_by_tap[k * x.n_out..][..x.n_out];
            if k == 0 {
                for j in 0..out.len() {
                    // SAFETY: tap tables hold indices below n_in, and row has n_in values.
                    out[j] = weight[j] * unsafe { *row.get_unchecked(index[j] as usize) };
                }
            } else {
                for j in 0..out.len() {
                    // SAFETY: as above.
                    let v = unsafe { *row.get_unchecked(index[j] as usize) };
                    out[j] = madd::<FMA>(weight[j], v, out[j]);
                }
            }
        }
    }
}

#[inline(always)]
fn blend_body<const FMA: bool>(
    input: &[f32],
    stride: usize,
    first: usize,
    index: &[u32],
    weight: &[f64],
    out: &mut [f32],
) {
    let full = out.len() - out.len() % BLOCK;
    for at in (0..full).step_by(BLOCK) {
        let mut acc = [0.0; BLOCK];
        for (&i, &w) in index.iter().zip(weight) {
            let from = &input[(i as usize - first) * stride + at..][..BLOCK];
            for l in 0..BLOCK {
                acc[l] = madd::<FMA>(w as f32, from[l], acc[l]);
            }
        }
        out[at..at + BLOCK].copy_from_slice(&acc);
    }
    let rest = &mut out[full..];
    rest.fill(0.0);
    for (&i, &w) in index.iter().zip(weight) {
        let from = &input[(i as usize - first) * stride + full..][..rest.len()];
        for (o, v) in rest.iter_mut().zip(from) {
            *o = madd::<FMA>(w as f32, *v, *o);
        }
    }
}

/// Output rows to compute, and the available input rows.
pub struct Strip {
    pub rows: Range<usize>,
    /// First available row of the input.
    pub first: usize,
    /// Number of available rows of the input.
    pub n_rows: usize,
}

/// Resamples row `oy` of one map into `out` `[wo, c]`.
///
/// `map` `[n_rows, w, c]` has the rows of the map from `first` on; `row` `[w, c]` is scratch.
pub(crate) fn one_row(
    c: usize,
    y: &Taps,
    x: &Taps,
    map: &[f32],
    (oy, first): (usize, usize),
    row: &mut [f32],
    out: &mut [f32],
) {
    let (index, weight) = y.row(oy);
    blend(map, x.n_in * c, first, index, weight, row);
    if c == 1 { along_width(x, row, out) } else { along_channels(x, c, row, out) }
}

/// Applies the tap tables to non-empty maps `[n, h, w, c]`.
pub fn apply(c: usize, y: &Taps, x: &Taps, input: &[f32], output: &mut [f32]) {
    apply_strip(c, y, x, &Strip { rows: 0..y.n_out, first: 0, n_rows: y.n_in }, input, output);
}

/// Applies the tap tables to strips of non-empty maps `[n, n_rows, w, c]`.
pub(crate) fn apply_strip(
    c: usize,
    y: &Taps,
    x: &Taps,
    strip: &Strip,
    input: &[f32],
    output: &mut [f32],
) {
    let (map, out_row, n_out) = (strip.n_rows * x.n_in * c, x.n_out * c, strip.rows.len());
    let rows = TASK.div_ceil(out_row);
    output.par_chunks_mut(rows * out_row).enumerate().for_each(|(task, out)| {
        ROW.with_borrow_mut(|row| {
            row.resize(x.n_in * c, 0.0);
            for (k, out) in out.chunks_exact_mut(out_row).enumerate() {
                let (n, oy) = ((task * rows + k) / n_out, (task * rows + k) % n_out);
                let at = (strip.rows.start + oy, strip.first);
                one_row(c, y, x, &input[n * map..][..map], at, row, out);
            }
        });
    });
}
