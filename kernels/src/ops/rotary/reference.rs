//! Rotary position in plain loops: the reference implementation. Tokens are split over threads.
//! Each pair is three operations, so it is memory-bound.

use rayon::prelude::*;

use super::{Rotary, Turn};
use crate::Real;

pub fn apply<T: Real>(s: &Rotary, qkv: &mut [T], table: &[T], turn: Turn) {
    let row = s.heads * s.d;
    if row == 0 {
        return;
    }
    qkv.par_chunks_mut(3 * row).enumerate().for_each(|(token, qkv)| {
        let Some(place) = (token % s.t).checked_sub(s.skip) else { return };
        let table = &table[place * s.d..][..s.d];
        for head in qkv[..2 * row].chunks_exact_mut(s.d) {
            for (pair, angle) in head.chunks_exact_mut(2).zip(table.chunks_exact(2)) {
                let (x, y, cos) = (pair[0], pair[1], angle[0]);
                let sin = if turn == Turn::Back { -angle[1] } else { angle[1] };
                pair[0] = x * cos - y * sin;
                pair[1] = y * cos + x * sin;
            }
        }
    });
}
