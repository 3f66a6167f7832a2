//! Rotary position in plain loops: the reference implementation. Tokens are split over threads.
//! Each pair is three operations, so it is memory-bound.

use rayon::prelude::*;

use super::{Pairs, Rotary, Turn};
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
            for (k, angle) in table.chunks_exact(2).enumerate() {
                let (i, j) = match s.pairs {
                    Pairs::Neighbours => (2 * k, 2 * k + 1),
                    Pairs::Halves => (k, k + s.d / 2),
                };
                let (x, y, cos) = (head[i], head[j], angle[0]);
                let sin = if turn == Turn::Back { -angle[1] } else { angle[1] };
                head[i] = x * cos - y * sin;
                head[j] = y * cos + x * sin;
            }
        }
    });
}
