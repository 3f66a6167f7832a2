//! Score maps in f32: per tile of pixels, the sigmoids of all queries and one product.

use std::cell::RefCell;

use rayon::prelude::*;

use super::SemanticScores;
use crate::cpu::logistic::sigmoid;
use crate::cpu::product::{MatrixView, product};
use crate::ops::resize::{Resize, resample_row};
use crate::simd;

/// Pixels per task: the sigmoids of 100 queries fit in the L2 cache.
const TILE: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Scratch memory of a task.
struct Scratch {
    /// `[q, n]`
    sigmas: Vec<f32>,
    /// `[k, n]`
    tile: Vec<f32>,
    /// One blended row of a mask.
    row: Vec<f32>,
}

impl Scratch {
    const fn new() -> Scratch {
        Scratch { sigmas: Vec::new(), tile: Vec::new(), row: Vec::new() }
    }
}

simd! {
    fn sigmoids<FMA>(x: &[f32], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = sigmoid::<FMA>(*x);
        }
    }

    fn sigmoids_in_place<FMA>(x: &mut [f32]) {
        for x in x {
            *x = sigmoid::<FMA>(*x);
        }
    }
}

/// Splits `scores` `[k, n]` into tiles of `size` pixels, each with `k` pieces.
fn tiles(scores: &mut [f32], n: usize, size: usize) -> Vec<Vec<&mut [f32]>> {
    let mut tiles: Vec<_> = (0..n.div_ceil(size)).map(|_| Vec::new()).collect();
    for row in scores.chunks_exact_mut(n) {
        for (tile, piece) in tiles.iter_mut().zip(row.chunks_mut(size)) {
            tile.push(piece);
        }
    }
    tiles
}

/// Computes each tile of `size` pixels: calls `fill(first pixel, pixels, sigmas [q, pixels], row)`,
/// then multiplies.
fn for_each_tile(
    s: &SemanticScores,
    n: usize,
    size: usize,
    prob: &[f32],
    scores: &mut [f32],
    fill: impl Fn(usize, usize, &mut [f32], &mut Vec<f32>) + Sync,
) {
    if n == 0 || s.k == 0 {
        return;
    }
    tiles(scores, n, size).into_par_iter().enumerate().for_each(|(at, pieces)| {
        let len = size.min(n - at * size);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.sigmas.resize(s.q * len, 0.0);
            scratch.tile.resize(s.k * len, 0.0);
            fill(at * size, len, &mut scratch.sigmas, &mut scratch.row);
            let prob = MatrixView { data: prob, rs: 1, cs: s.k };
            let sigmas = MatrixView { data: &scratch.sigmas, rs: len, cs: 1 };
            product((s.k, len, s.q), prob, sigmas, &mut scratch.tile, len, false);
            for (piece, row) in pieces.into_iter().zip(scratch.tile.chunks_exact(len)) {
                piece.copy_from_slice(row);
            }
        });
    });
}

pub fn compute(s: &SemanticScores, n: usize, prob: &[f32], masks: &[f32], scores: &mut [f32]) {
    for_each_tile(s, n, TILE, prob, scores, |start, len, sigmas, _| {
        for (i, sigmas) in sigmas.chunks_exact_mut(len).enumerate() {
            sigmoids(&masks[i * n + start..][..len], sigmas);
        }
    });
}

pub fn upsampled(
    s: &SemanticScores,
    resize: &Resize,
    prob: &[f32],
    masks: &[f32],
    scores: &mut [f32],
) {
    let (wo, map) = (resize.x.n_out(), resize.y.n_in() * resize.x.n_in());
    for_each_tile(s, resize.y.n_out() * wo, wo, prob, scores, |start, len, sigmas, row| {
        for (sigmas, mask) in sigmas.chunks_exact_mut(len).zip(masks.chunks_exact(map)) {
            resample_row(resize, mask, start / wo, row, sigmas);
            sigmoids_in_place(sigmas);
        }
    });
}
