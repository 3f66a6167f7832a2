//! Dropout in plain loops: the reference implementation, and over threads in f32.

use rayon::prelude::*;

use super::{Dropout, Forward};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::ops::uniform::Philox;

/// Elements of an image that one thread computes, a multiple of the four draws of a block.
const CHUNK: usize = 4096;

/// Elements of image `image` from number `start` on.
fn drop<U: Real>(s: &Dropout, position: &[i32], [image, start]: [usize; 2], x: &[U], y: &mut [U]) {
    let sample = s.sample() + u64::from(position[1] as u32) + image as u64;
    let step = u64::from(position[0] as u32);
    let mut random = Philox::new(s.seed, Dropout::PURPOSE, sample, step);
    let (rate, factor) = (s.rate as f32, U::of(f64::from(s.factor())));
    if s.whole {
        match random.uniform_f32() >= rate {
            true => y.iter_mut().zip(x).for_each(|(y, x)| *y = *x * factor),
            false => y.fill(U::ZERO),
        }
        return;
    }
    random.skip(start as u64);
    for (y, x) in y.iter_mut().zip(x) {
        *y = if random.uniform_f32() >= rate { *x * factor } else { U::ZERO };
    }
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Dropout;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Dropout, Forward { position, x, y }: Forward<'_, Host, U>) {
        let images = y.chunks_exact_mut(s.n).zip(x.chunks_exact(s.n));
        images.enumerate().for_each(|(i, (y, x))| drop(s, position, [i, 0], x, y));
    }

    fn fast(s: &Dropout, Forward { position, x, y }: Forward<'_, Host, f32>) {
        let images = y.par_chunks_exact_mut(s.n).zip(x.par_chunks_exact(s.n)).enumerate();
        images.for_each(|(i, (y, x))| {
            let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate();
            chunks.for_each(|(k, (y, x))| drop(s, position, [i, k * CHUNK], x, y));
        });
    }
}
