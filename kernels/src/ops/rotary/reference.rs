//! Rotary position in plain loops: the reference implementation. Tokens are split over threads.
//! Each pair is three operations, so it is memory-bound.

use rayon::prelude::*;

use super::{Pairs, Rotary, Rotate, Turn};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Rotate<'_, M, T> {
    type Op = Rotary;
    type At<'a, N: Memory, U: Element> = Rotate<'a, N, U>;

    fn reference<U: Real>(s: &Rotary, Rotate { qkv, table }: Rotate<'_, Host, U>) {
        let row = s.heads * s.d;
        qkv.par_chunks_mut(3 * row).enumerate().for_each(|(token, qkv)| {
            let place = (token % s.t).checked_sub(s.skip);
            let Some(place) = place.filter(|place| *place < s.cells) else { return };
            let table = &table[place * s.d..][..s.d];
            for head in qkv[..2 * row].chunks_exact_mut(s.d) {
                for (k, angle) in table.chunks_exact(2).enumerate() {
                    let (i, j) = match s.pairs {
                        Pairs::Neighbours => (2 * k, 2 * k + 1),
                        Pairs::Halves => (k, k + s.d / 2),
                    };
                    let (x, y, cos) = (head[i], head[j], angle[0]);
                    let sin = if s.turn == Turn::Back { -angle[1] } else { angle[1] };
                    head[i] = x * cos - y * sin;
                    head[j] = y * cos + x * sin;
                }
            }
        });
    }
}
