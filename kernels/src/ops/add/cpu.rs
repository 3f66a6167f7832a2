//! Elementwise passes and column sums, split over threads.

use rayon::prelude::*;

use super::{Add, Forward};
use crate::call::Host;
use crate::simd;
use crate::{Real, dry_run, f32s, f32s_mut};

/// Elements per task.
const TASK: usize = 1 << 14;

simd! {
    fn add_into_f32<FMA>(x: &[f32], sum: &mut [f32]) {
        for (s, x) in sum.iter_mut().zip(x) {
            *s += *x;
        }
    }

    fn add_rows<FMA>(a: &[f32], b: &[f32], y: &mut [f32]) {
        for (y, a) in y.chunks_mut(b.len()).zip(a.chunks(b.len())) {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = *a + *b;
            }
        }
    }
}

fn add_into<T: Real>(x: &[T], sum: &mut [T]) {
    if T::IS_F32 {
        add_into_f32(f32s(x), f32s_mut(sum));
    } else {
        sum.iter_mut().zip(x).for_each(|(s, x)| *s += *x);
    }
}

/// `y[i, j] = a[i, j] + b[j]`.
pub fn forward(s: &Add, Forward { a, b, y }: Forward<'_, Host, f32>) {
    if s.inner < TASK {
        let piece = TASK / s.inner * s.inner;
        let pieces = y.par_chunks_mut(piece).zip(a.par_chunks(piece));
        pieces.for_each(|(y, a)| add_rows(a, b, y));
        return;
    }
    for (y, a) in y.chunks_mut(s.inner).zip(a.chunks(s.inner)) {
        let pieces = y.par_chunks_mut(TASK).zip(a.par_chunks(TASK)).zip(b.par_chunks(TASK));
        pieces.for_each(|((y, a), b)| add_rows(a, b, y));
    }
}

/// Rows of `c` elements per task of [`add_column_sums`].
pub fn rows(c: usize) -> usize {
    (TASK / c).max(64)
}

/// `out[j] += sum_i x[i, j]` for `x [n, c]`, `out [c]`.
///
/// Few wide rows are split by columns, many narrow ones by rows. The split depends only on `c` and
/// `n`.
pub(crate) fn add_column_sums<T: Real>(c: usize, x: &[T], out: &mut [T]) {
    if c == 0 || x.is_empty() || dry_run::skip("column_sums") {
        return;
    }
    let rows = rows(c);
    if x.len() <= rows * c {
        out.par_chunks_mut(TASK).enumerate().for_each(|(k, out)| {
            for row in x.chunks_exact(c) {
                add_into(&row[k * TASK..][..out.len()], out);
            }
        });
        return;
    }
    let parts: Vec<Vec<T>> = x
        .par_chunks(rows * c)
        .map(|x| {
            let mut sum = vec![T::ZERO; c];
            x.chunks_exact(c).for_each(|row| add_into(row, &mut sum));
            sum
        })
        .collect();
    parts.iter().for_each(|part| add_into(part, out));
}
