//! Token link in plain loops: the reference implementation, and the only one of the host.

use super::{Backward, Forward, TokenLink};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = TokenLink;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &TokenLink, Forward { q, out }: Forward<'_, Host, U>) {
        let n = s.m * s.c;
        for (i, out) in out.chunks_exact_mut(3).enumerate() {
            let layers = || (0..s.layers).map(|l| q[l * n + i]);
            out[0] = layers().fold(q[i], U::max);
            out[1] = layers().sum::<U>() / U::of(s.layers as f64);
            out[2] = q[(s.layers - 1) * n + i];
        }
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = TokenLink;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &TokenLink, Backward { q, dout, dq }: Backward<'_, Host, U>) {
        let n = s.m * s.c;
        for (i, d) in dout.chunks_exact(3).enumerate() {
            let share = d[1] / U::of(s.layers as f64);
            let mut first = 0;
            for l in 0..s.layers {
                dq[l * n + i] = share;
                if q[l * n + i] > q[first * n + i] {
                    first = l;
                }
            }
            dq[first * n + i] += d[0];
            dq[(s.layers - 1) * n + i] += d[2];
        }
    }
}
