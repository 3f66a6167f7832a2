//! Factors of channels in plain loops: the reference implementation, and over threads in f32.

use rayon::prelude::*;

use super::{ChannelScale, Forward};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

fn scale<U: Real>(x: &[U], factor: &[U], y: &mut [U]) {
    for (y, (x, factor)) in y.iter_mut().zip(x.iter().zip(factor)) {
        *y = *x * *factor;
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = ChannelScale;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &ChannelScale, Forward { x, factor, y }: Forward<'_, Host, U>) {
        let pixels = y.chunks_exact_mut(s.c).zip(x.chunks_exact(s.c));
        for (p, (y, x)) in pixels.enumerate() {
            scale(x, &factor[p / s.n * s.c..][..s.c], y);
        }
    }

    fn fast(s: &ChannelScale, Forward { x, factor, y }: Forward<'_, Host, f32>) {
        let pixels = y.par_chunks_exact_mut(s.c).zip(x.par_chunks_exact(s.c));
        let pixels = pixels.enumerate().with_min_len(64);
        pixels.for_each(|(p, (y, x))| scale(x, &factor[p / s.n * s.c..][..s.c], y));
    }
}
