//! Matching costs in f32. Each tile of points has one product for mask and one for dice; partial
//! sums are added in the order of tiles.

use rayon::prelude::*;

use super::{Forward, MatchCost, reference};
use crate::call::Host;
use crate::cpu::logistic::sigmoid_and_log;
use crate::cpu::product::{MatrixView, product};
use crate::cpu::simd;
use crate::simd;

/// Points per task: three tiles of 100 queries fit in the L2 cache. Fixed, as the sums depend on
/// it.
pub const TILE: usize = 512;

simd! {
    /// Writes `BCE(x, 1)`, `BCE(x, 0)` and `sigmoid(x)`; returns the sum of the last.
    fn logits_row<FMA>(x: &[f32], one: &mut [f32], zero: &mut [f32], sigma: &mut [f32]) -> f32 {
        let n = x.len();
        let (one, zero, sigma) = (&mut one[..n], &mut zero[..n], &mut sigma[..n]);
        for j in 0..n {
            let (s, log) = sigmoid_and_log::<FMA>(x[j]);
            one[j] = (-x[j]).max(0.0) + log;
            zero[j] = x[j].max(0.0) + log;
            sigma[j] = s;
        }
        simd::sum(sigma)
    }

    /// Copies `t` and writes `1 - t`; returns the sum of `t`.
    fn target_row<FMA>(t: &[f32], copy: &mut [f32], rest: &mut [f32]) -> f32 {
        copy.copy_from_slice(t);
        for (rest, t) in rest.iter_mut().zip(t) {
            *rest = 1.0 - t;
        }
        simd::sum(t)
    }
}

/// Contribution of a tile of points to the sums of all pairs.
#[derive(Default)]
struct Part {
    /// Sum of the cross-entropies, `[q, g]`.
    entropy: Vec<f32>,
    /// Sum of `s t`, `[q, g]`.
    both: Vec<f32>,
    /// Sum of `s`, `[q]`.
    sum_s: Vec<f32>,
    /// Sum of `t`, `[g]`.
    sum_t: Vec<f32>,
}

fn tile(s: &MatchCost, x: &[f32], t: &[f32], start: usize) -> Part {
    let (q, g, n) = (s.q, s.g, TILE.min(s.p - start));
    // Rows of `entropies` are [BCE(x, 1), BCE(x, 0)], rows of `targets` [t, 1 - t].
    let (mut entropies, mut sigmas) = (vec![0.0; q * 2 * n], vec![0.0; q * n]);
    let mut targets = vec![0.0; g * 2 * n];
    let mut part = Part {
        entropy: vec![0.0; q * g],
        both: vec![0.0; q * g],
        sum_s: vec![0.0; q],
        sum_t: vec![0.0; g],
    };
    for (i, row) in entropies.chunks_exact_mut(2 * n).enumerate() {
        let (one, zero) = row.split_at_mut(n);
        let sigma = &mut sigmas[i * n..][..n];
        part.sum_s[i] = logits_row(&x[i * s.p + start..][..n], one, zero, sigma);
    }
    for (j, row) in targets.chunks_exact_mut(2 * n).enumerate() {
        let (copy, rest) = row.split_at_mut(n);
        part.sum_t[j] = target_row(&t[j * s.p + start..][..n], copy, rest);
    }
    let rows = |data, rs| MatrixView { data, rs, cs: 1 };
    let columns = MatrixView { data: &targets, rs: 1, cs: 2 * n };
    product((q, g, 2 * n), rows(&entropies, 2 * n), columns, &mut part.entropy, g, false);
    product((q, g, n), rows(&sigmas, n), columns, &mut part.both, g, false);
    part
}

/// Writes the costs of each image in turn.
pub fn forward(s: &MatchCost, c: Forward<'_, Host, f32>) {
    let Forward { cls, labels, x, t, cost } = c;
    for (i, cost) in cost.chunks_exact_mut(s.q * s.g).enumerate() {
        let labels = &labels[i * s.g..][..s.g];
        let cls = &cls[i * s.q * (s.k + 1)..][..s.q * (s.k + 1)];
        let (x, t) = (&x[i * s.q * s.p..][..s.q * s.p], &t[i * s.g * s.p..][..s.g * s.p]);
        // Padding comes last, and needs no sums.
        let filled =
            labels.iter().rposition(|&label| s.class(label).is_some()).map_or(0, |i| i + 1);
        let sums = sums(&MatchCost { g: filled, ..*s }, x, &t[..filled * s.p]);
        for (query, cost) in cost.chunks_exact_mut(s.g).enumerate() {
            let (paired, padding) = cost.split_at_mut(filled);
            padding.fill(0.0);
            let cls = &cls[query * (s.k + 1)..][..s.k + 1];
            for (j, cost) in paired.iter_mut().enumerate() {
                let at = query * filled + j;
                let pair = [sums.entropy[at], sums.both[at], sums.sum_s[query], sums.sum_t[j]];
                *cost = reference::total(s, cls, labels[j], pair);
            }
        }
    }
}

/// Sums over all points of one image, tile by tile.
fn sums(s: &MatchCost, x: &[f32], t: &[f32]) -> Part {
    let tiles = if s.g == 0 { 0 } else { s.p.div_ceil(TILE) };
    let parts: Vec<Part> = (0..tiles).into_par_iter().map(|k| tile(s, x, t, k * TILE)).collect();
    let add =
        |out: &mut Vec<f32>, part: &[f32]| out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
    let sums = parts.into_iter().reduce(|mut sums, part| {
        add(&mut sums.entropy, &part.entropy);
        add(&mut sums.both, &part.both);
        add(&mut sums.sum_s, &part.sum_s);
        add(&mut sums.sum_t, &part.sum_t);
        sums
    });
    sums.unwrap_or_default()
}
