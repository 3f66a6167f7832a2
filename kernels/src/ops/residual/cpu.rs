//! Residual connection in f32; rows are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, GammaGradient, Residual};
use crate::call::Host;
use crate::cpu::simd::madd;
use crate::simd;

/// Rows per task. Fixed, so that the gradient of gamma is summed in the same order for any number
/// of threads.
pub const ROWS: usize = 64;

simd! {
    fn scaled_rows<FMA>(x: &[f32], r: &[f32], gamma: &[f32], y: &mut [f32]) {
        let c = gamma.len();
        for ((y, x), r) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(r.chunks_exact(c)) {
            for j in 0..c {
                y[j] = madd::<FMA>(gamma[j], r[j], x[j]);
            }
        }
    }

    fn plain<FMA>(x: &[f32], r: &[f32], y: &mut [f32]) {
        for ((y, x), r) in y.iter_mut().zip(x).zip(r) {
            *y = x + r;
        }
    }

    fn dr_rows<FMA>(gamma: &[f32], dy: &[f32], dr: &mut [f32]) {
        let c = gamma.len();
        for (dr, dy) in dr.chunks_exact_mut(c).zip(dy.chunks_exact(c)) {
            for j in 0..c {
                dr[j] = dy[j] * gamma[j];
            }
        }
    }

    fn dgamma_rows<FMA>(r: &[f32], dy: &[f32], dgamma: &mut [f32]) {
        let c = dgamma.len();
        for (r, dy) in r.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for j in 0..c {
                dgamma[j] = madd::<FMA>(dy[j], r[j], dgamma[j]);
            }
        }
    }
}

/// `y = x + gamma * r`.
pub fn forward(s: &Residual, c: Forward<'_, Host, f32>) {
    let Forward { x, r, gamma, y, .. } = c;
    let piece = ROWS * s.c;
    y.par_chunks_mut(piece).zip(x.par_chunks(piece).zip(r.par_chunks(piece))).for_each(
        |(y, (x, r))| match gamma {
            Some(gamma) => scaled_rows(x, r, gamma, y),
            None => plain(x, r, y),
        },
    );
}

/// `dr = dy * gamma`.
pub fn dr(s: &Residual, Backward { gamma, dy, dr }: Backward<'_, Host, f32>) {
    let Some(gamma) = gamma else {
        dr.copy_from_slice(dy);
        return;
    };
    let piece = ROWS * s.c;
    dr.par_chunks_mut(piece).zip(dy.par_chunks(piece)).for_each(|(dr, dy)| dr_rows(gamma, dy, dr));
}

/// `dgamma += sum_n dy * r`.
pub fn dgamma(s: &Residual, c: GammaGradient<'_, Host, f32>) {
    let GammaGradient { r, dy, dgamma, .. } = c;
    let parts: Vec<Vec<f32>> = r
        .par_chunks(ROWS * s.c)
        .zip(dy.par_chunks(ROWS * s.c))
        .map(|(r, dy)| {
            let mut part = vec![0.0; s.c];
            dgamma_rows(r, dy, &mut part);
            part
        })
        .collect();
    for part in &parts {
        dgamma.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
    }
}
