//! Selection by a full sort: the reference implementation.

use super::{Select, UncertainPoints, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Select<'_, M, T> {
    type Op = UncertainPoints;
    type At<'a, N: Memory, U: Element> = Select<'a, N, U>;

    fn reference<U: Real>(s: &UncertainPoints, c: Select<'_, Host, U>) {
        let Select { logits, points, random, out } = c;
        for (i, out) in out.chunks_exact_mut(s.row()).enumerate() {
            // The bits of magnitudes have the order of the values, with NaN last.
            let key = |&j: &usize| (logits[i * s.n_over + j].f64().abs().to_bits(), j);
            let mut kept: Vec<usize> = (0..s.n_over).collect();
            kept.sort_by_key(key);
            kept.truncate(s.keep);
            kept.sort_unstable();
            for (to, j) in out.chunks_exact_mut(2).zip(kept) {
                to.copy_from_slice(&points[(i * s.n_over + j) * 2..][..2]);
            }
            out[2 * s.keep..].copy_from_slice(&random[i * 2 * s.n_rand..][..2 * s.n_rand]);
        }
    }

    fn fast(s: &UncertainPoints, c: Select<'_, Host, f32>) {
        cpu::select(s, c);
    }
}
