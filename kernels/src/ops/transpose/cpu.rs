//! Transposition by tiles that fit in the L1 cache; tiles of rows are split over threads.

use rayon::prelude::*;

use super::{Forward, TILE, Transpose};
use crate::call::Host;

pub fn forward(s: &Transpose, Forward { x, y }: Forward<'_, Host, f32>) {
    let matrix = s.n * s.m;
    for (x, y) in x.chunks_exact(matrix).zip(y.chunks_exact_mut(matrix)) {
        let rows = y.par_chunks_mut(TILE * s.n).enumerate();
        rows.for_each(|(tile, y)| rows_of(s, x, tile * TILE, y));
    }
}

/// Writes rows of one matrix `y`, from `first` on.
fn rows_of(s: &Transpose, x: &[f32], first: usize, y: &mut [f32]) {
    for start in (0..s.n).step_by(TILE) {
        let end = (start + TILE).min(s.n);
        for (j, y) in y.chunks_exact_mut(s.n).enumerate() {
            for (i, y) in (start..end).zip(&mut y[start..end]) {
                *y = x[i * s.m + first + j];
            }
        }
    }
}
