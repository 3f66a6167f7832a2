//! Attention masks in f32; rows are split over threads.

use rayon::prelude::*;

use super::{AttentionMask, Forward, THRESHOLD};
use crate::call::{Call, Host};
use crate::ops::resize;

pub fn forward(s: &AttentionMask, Forward { logits, used, raw }: Forward<'_, Host, f32>) {
    let (row, map, keys) = (s.row(), logits.len() / s.n, used.len() / s.n);
    let rows = logits.par_chunks(map).zip(used.par_chunks_mut(keys));
    let block = |values: &mut Vec<f32>, logits: &[f32], used: &mut [u8]| {
        values.resize(keys, 0.0);
        resize::Forward::<Host, f32>::fast(&row, resize::Forward { x: logits, y: values });
        for (used, v) in used.iter_mut().zip(&*values) {
            *used = u8::from(*v < THRESHOLD as f32);
        }
    };
    match raw {
        Some(raw) => rows.zip(raw.par_chunks_mut(keys)).for_each_init(
            Vec::new,
            |values, ((logits, used), raw)| {
                block(values, logits, used);
                raw.copy_from_slice(used);
                reset(used);
            },
        ),
        None => rows.for_each_init(Vec::new, |values, (logits, used)| {
            block(values, logits, used);
            reset(used);
        }),
    }
}

/// Opens a row with every key blocked: attention over no keys is undefined.
pub fn reset(row: &mut [u8]) {
    if !row.contains(&0) {
        row.fill(0);
    }
}
