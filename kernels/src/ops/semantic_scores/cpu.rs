//! Score maps in f32: per row of pixels, the sigmoids of all queries and one product.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Forward, SemanticScores};
use crate::call::Host;
use crate::cpu::logistic::sigmoid;
use crate::cpu::product::{MatrixView, product};
use crate::ops::resize::{Resize, resample_row};
use crate::simd;

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
    fn sigmoids_in_place<FMA>(x: &mut [f32]) {
        for x in x {
            *x = sigmoid::<FMA>(*x);
        }
    }
}

/// Splits `scores` `[k, ho, wo]` into `ho` tiles, each with `k` rows of pixels.
fn tiles(scores: &mut [f32], ho: usize, wo: usize) -> Vec<Vec<&mut [f32]>> {
    let mut tiles: Vec<_> = (0..ho).map(|_| Vec::new()).collect();
    for map in scores.chunks_exact_mut(ho * wo) {
        for (tile, row) in tiles.iter_mut().zip(map.chunks_mut(wo)) {
            tile.push(row);
        }
    }
    tiles
}

/// Computes each row of pixels: calls `fill(row, sigmas [q, wo], scratch)`, then multiplies.
fn for_each_tile(
    s: &SemanticScores,
    prob: &[f32],
    scores: &mut [f32],
    fill: impl Fn(usize, &mut [f32], &mut Vec<f32>) + Sync,
) {
    if s.pixels() == 0 || s.k == 0 {
        return;
    }
    let (ho, wo) = (s.y.n_out(), s.x.n_out());
    tiles(scores, ho, wo).into_par_iter().enumerate().for_each(|(at, pieces)| {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.sigmas.resize(s.q * wo, 0.0);
            scratch.tile.resize(s.k * wo, 0.0);
            fill(at, &mut scratch.sigmas, &mut scratch.row);
            let prob = MatrixView { data: prob, rs: 1, cs: s.k };
            let sigmas = MatrixView { data: &scratch.sigmas, rs: wo, cs: 1 };
            product((s.k, wo, s.q), prob, sigmas, &mut scratch.tile, wo, false);
            for (piece, row) in pieces.into_iter().zip(scratch.tile.chunks_exact(wo)) {
                piece.copy_from_slice(row);
            }
        });
    });
}

pub fn forward(s: &SemanticScores, Forward { cls, masks, scores }: Forward<'_, Host, f32>) {
    let (wo, map) = (s.x.n_out(), s.y.n_in() * s.x.n_in());
    let (prob, resize) =
        (s.probabilities(cls), Resize { n: s.q, c: 1, y: s.y.clone(), x: s.x.clone() });
    for_each_tile(s, &prob, scores, |row_of_pixels, sigmas, row| {
        for (sigmas, mask) in sigmas.chunks_exact_mut(wo).zip(masks.chunks_exact(map)) {
            resample_row(&resize, mask, row_of_pixels, row, sigmas);
            sigmoids_in_place(sigmas);
        }
    });
}
