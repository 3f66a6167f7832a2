//! Selection in f32, by a partial sort of each row.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Select, UncertainPoints};
use crate::call::Host;

thread_local! {
    static KEYS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

pub fn select(s: &UncertainPoints, c: Select<'_, Host, f32>) {
    let Select { logits, points, random, out } = c;
    out.par_chunks_mut(s.row()).enumerate().for_each(|(i, out)| {
        let (selected, fresh) = out.split_at_mut(2 * s.keep);
        fresh.copy_from_slice(&random[i * 2 * s.n_rand..][..2 * s.n_rand]);
        if s.keep > 0 {
            let logits = &logits[i * s.n_over..][..s.n_over];
            KEYS.with_borrow_mut(|keys| {
                let points = &points[i * s.n_over * 2..][..s.n_over * 2];
                select_row(keys, s.keep, logits, points, selected);
            });
        }
    });
}

/// Copies the points of the `keep` smallest logits to `selected`, in the order of the points.
fn select_row(
    keys: &mut Vec<u64>,
    keep: usize,
    logits: &[f32],
    points: &[f32],
    selected: &mut [f32],
) {
    // The bits of |logit|, which have the order of the values, and the index. Both fit in one word,
    // which halves the data that the selection moves.
    let key = |(j, v): (usize, &f32)| u64::from(v.abs().to_bits()) << 32 | j as u64;
    let all = || logits.iter().enumerate().map(key);
    keys.clear();
    keys.extend(all());
    let (_, &mut last, _) = keys.select_nth_unstable(keep - 1);
    // Keys are distinct, so exactly `keep` of them are not above the last one.
    let chosen = all().zip(points.chunks_exact(2)).filter(|(key, _)| *key <= last);
    for (to, (_, from)) in selected.chunks_exact_mut(2).zip(chosen) {
        to.copy_from_slice(from);
    }
}
