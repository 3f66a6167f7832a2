//! SwiGLU gate in f32; rows are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, Swiglu};
use crate::call::Host;
use crate::cpu::simd::exp;
use crate::simd;

simd! {
    fn forward_row<FMA>(x: &[f32], y: &mut [f32]) {
        let (u, v) = x.split_at(y.len());
        for ((y, u), v) in y.iter_mut().zip(u).zip(v) {
            *y = u * v / (1.0 + exp::<FMA>(-u));
        }
    }

    fn backward_row<FMA>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (u, v) = x.split_at(dy.len());
        let (du, dv) = dx.split_at_mut(dy.len());
        for j in 0..dy.len() {
            let sig = 1.0 / (1.0 + exp::<FMA>(-u[j]));
            du[j] = dy[j] * v[j] * sig * (1.0 + u[j] * (1.0 - sig));
            dv[j] = dy[j] * u[j] * sig;
        }
    }
}

pub fn forward(s: &Swiglu, Forward { x, y }: Forward<'_, Host, f32>) {
    y.par_chunks_mut(s.h).zip(x.par_chunks(2 * s.h)).for_each(|(y, x)| forward_row(x, y));
}

pub fn backward(s: &Swiglu, Backward { x, dy, dx }: Backward<'_, Host, f32>) {
    dx.par_chunks_mut(2 * s.h)
        .zip(x.par_chunks(2 * s.h).zip(dy.par_chunks(s.h)))
        .for_each(|(dx, (x, dy))| backward_row(x, dy, dx));
}
