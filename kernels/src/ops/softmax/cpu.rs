//! Vectorised softmax in f32; rows are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, Softmax};
use crate::call::Host;
use crate::cpu::simd;
use crate::simd;

simd! {
    fn forward_row<FMA>(x: &[f32], y: &mut [f32]) {
        // A NaN is not taken as the maximum, but makes the sum NaN.
        let top = x.iter().fold(f32::NEG_INFINITY, |top, &x| if x > top { x } else { top });
        for (y, x) in y.iter_mut().zip(x) {
            *y = simd::exp::<FMA>(*x - top);
        }
        let inverse = 1.0 / simd::sum(y);
        y.iter_mut().for_each(|y| *y *= inverse);
    }

    fn backward_row<FMA>(y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let mean = simd::dot::<FMA>(y, dy);
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = y * (dy - mean);
        }
    }
}

pub fn forward(s: &Softmax, Forward { x, y }: Forward<'_, Host, f32>) {
    y.par_chunks_exact_mut(s.c).zip(x.par_chunks_exact(s.c)).for_each(|(y, x)| forward_row(x, y));
}

pub fn backward(s: &Softmax, Backward { y, dy, dx }: Backward<'_, Host, f32>) {
    dx.par_chunks_exact_mut(s.c)
        .zip(y.par_chunks_exact(s.c).zip(dy.par_chunks_exact(s.c)))
        .for_each(|(dx, (y, dy))| backward_row(y, dy, dx));
}
