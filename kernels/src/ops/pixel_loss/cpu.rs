//! Vectorised per-pixel cross-entropy in f32; strips of pixels are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, PixelLoss};
use crate::call::Host;
use crate::cpu::simd;
use crate::simd;

/// Pixels per task: a row of logits of each class stays in the L1 cache. Fixed, as the sum depends
/// on it.
const STRIP: usize = 512;

simd! {
    /// Largest logit of each pixel so far.
    fn raise<FMA>(x: &[f32], top: &mut [f32]) {
        for (top, x) in top.iter_mut().zip(x) {
            // A NaN is not taken as the maximum, but makes the sum NaN.
            *top = if *x > *top { *x } else { *top };
        }
    }

    fn add_exp<FMA>(x: &[f32], top: &[f32], total: &mut [f32]) {
        for ((total, x), top) in total.iter_mut().zip(x).zip(top) {
            *total += simd::exp::<FMA>(*x - *top);
        }
    }

    /// Gradient of one class: of the softmax alone, then of the pixels whose class it is.
    fn gradient<FMA>(x: &[f32], lse: &[f32], d: &[f32], labels: &[u8], class: u8, dx: &mut [f32]) {
        for i in 0..dx.len() {
            let hit = if labels[i] == class { 1.0 } else { 0.0 };
            dx[i] = d[i] * (simd::exp::<FMA>(x[i] - lse[i]) - hit);
        }
    }
}

/// Strip `i`: its image, and its pixels there.
fn strip(s: &PixelLoss, i: usize) -> (usize, std::ops::Range<usize>) {
    let strips = s.n.div_ceil(STRIP);
    let start = i % strips * STRIP;
    (i / strips, start..(start + STRIP).min(s.n))
}

pub fn forward(s: &PixelLoss, c: Forward<'_, Host, f32>) {
    let Forward { x, labels, lse, loss } = c;
    loss[0] = 0.0;
    if s.n == 0 {
        return;
    }
    let strips = lse.chunks_exact_mut(s.n).flat_map(|image| image.chunks_mut(STRIP));
    let strips: Vec<(usize, &mut [f32])> = strips.enumerate().collect();
    let sums = strips.into_par_iter().map(|(i, lse)| {
        let (image, at) = strip(s, i);
        let logits = |j: usize| &x[(image * s.k + j) * s.n..][at.clone()];
        let (mut top, mut total) = ([f32::NEG_INFINITY; STRIP], [0.0; STRIP]);
        let (top, total) = (&mut top[..lse.len()], &mut total[..lse.len()]);
        (0..s.k).for_each(|j| raise(logits(j), top));
        (0..s.k).for_each(|j| add_exp(logits(j), top, total));
        let mut sum = 0.0;
        for (p, lse) in lse.iter_mut().enumerate() {
            *lse = top[p] + total[p].ln();
            let y = usize::from(labels[image * s.n + at.start + p]);
            if y < s.k {
                sum += f64::from(*lse - logits(y)[p]);
            }
        }
        sum
    });
    let sums: Vec<f64> = sums.collect();
    loss[0] = (sums.into_iter().sum::<f64>() * s.scale()) as f32;
}

pub fn backward(s: &PixelLoss, c: Backward<'_, Host, f32>) {
    let Backward { x, labels, lse, dloss, dx } = c;
    if s.n == 0 || s.k == 0 {
        return;
    }
    let scale = dloss[0] * s.scale() as f32;
    dx.par_chunks_exact_mut(s.n).enumerate().for_each(|(row, dx)| {
        let (image, class) = (row / s.k, row % s.k);
        let (x, labels) = (&x[row * s.n..][..s.n], &labels[image * s.n..][..s.n]);
        let lse = &lse[image * s.n..][..s.n];
        let mut d = [0.0; STRIP];
        for (i, dx) in dx.chunks_mut(STRIP).enumerate() {
            let at = i * STRIP..i * STRIP + dx.len();
            let (labels, d) = (&labels[at.clone()], &mut d[..dx.len()]);
            for (d, label) in d.iter_mut().zip(labels) {
                *d = if usize::from(*label) < s.k { scale } else { 0.0 };
            }
            // Beyond 255 no pixel has the class, but 255 itself is no class of fewer.
            match u8::try_from(class) {
                Ok(class) => gradient(&x[at.clone()], &lse[at], d, labels, class, dx),
                Err(_) => softmax(&x[at.clone()], &lse[at], d, dx),
            }
        }
    });
}

simd! {
    fn softmax<FMA>(x: &[f32], lse: &[f32], d: &[f32], dx: &mut [f32]) {
        for i in 0..dx.len() {
            dx[i] = d[i] * simd::exp::<FMA>(x[i] - lse[i]);
        }
    }
}
