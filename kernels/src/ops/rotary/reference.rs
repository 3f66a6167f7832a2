//! Rotary position in plain loops: the reference implementation. Tokens are split over threads.
//! Each pair is three operations, so it is memory-bound.

use rayon::prelude::*;

use super::{Rotary, Rotate, Turn};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Rotate<'_, M, T> {
    type Op = Rotary;
    type At<'a, N: Memory, U: Element> = Rotate<'a, N, U>;

    fn reference<U: Real>(s: &Rotary, Rotate { qkv, table }: Rotate<'_, Host, U>) {
        let row = s.heads * s.d;
        qkv.par_chunks_mut(3 * row).enumerate().for_each(|(token, qkv)| {
            let Some(place) = (token % s.t).checked_sub(s.skip) else { return };
            let table = &table[place * s.d..][..s.d];
            for head in qkv[..2 * row].chunks_exact_mut(s.d) {
                for (pair, angle) in head.chunks_exact_mut(2).zip(table.chunks_exact(2)) {
                    let (x, y, cos) = (pair[0], pair[1], angle[0]);
                    let sin = if s.turn == Turn::Back { -angle[1] } else { angle[1] };
                    pair[0] = x * cos - y * sin;
                    pair[1] = y * cos + x * sin;
                }
            }
        });
    }
}
