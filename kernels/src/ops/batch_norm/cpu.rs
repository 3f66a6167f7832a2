//! Batch norm in f32: the loops of group norm over one image of all pixels, with a group for each
//! channel.

use rayon::prelude::*;

use super::{Backward, BatchNorm, Evaluation, Forward};
use crate::call::Host;
use crate::ops::group_norm::{self, GroupNorm};
use crate::simd;

pub(super) use crate::ops::group_norm::ROWS;

simd! {
    /// `dx = dy * factor` with a factor per channel.
    fn scale<FMA>(dy: &[f32], factor: &[f32], dx: &mut [f32]) {
        let c = factor.len();
        for (dy, dx) in dy.chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
            for j in 0..c {
                dx[j] = dy[j] * factor[j];
            }
        }
    }
}

impl BatchNorm {
    fn as_groups(&self) -> GroupNorm {
        GroupNorm { b: 1, hw: self.n, c: self.c, groups: self.c, eps: self.eps }
    }

    /// Reciprocal standard deviation of each channel.
    fn rstd(&self, var: &[f32]) -> Vec<f32> {
        var.iter().map(|var| (1.0 / (f64::from(*var) + self.eps).sqrt()) as f32).collect()
    }
}

pub fn forward(s: &BatchNorm, call: Forward<'_, Host, f32>) {
    let Forward { x, weight, bias, y, mean, var } = call;
    let groups = group_norm::moments_of_groups(&s.as_groups(), x);
    for ((mean, var), (m, v)) in mean.iter_mut().zip(var.iter_mut()).zip(groups) {
        (*mean, *var) = (m as f32, v as f32);
    }
    evaluation(s, Evaluation { x, weight, bias, mean, var, y });
}

pub fn evaluation(s: &BatchNorm, call: Evaluation<'_, Host, f32>) {
    let Evaluation { x, weight, bias, mean, var, y } = call;
    let factor: Vec<f32> = s.rstd(var).iter().zip(weight).map(|(r, w)| r * w).collect();
    y.par_chunks_mut(ROWS * s.c)
        .zip(x.par_chunks(ROWS * s.c))
        .for_each(|(y, x)| group_norm::normalise(x, mean, &factor, bias, y));
}

pub fn backward(s: &BatchNorm, call: Backward<'_, Host, f32>) {
    let Backward { x, weight, mean, var, dy, dx, dweight, dbias } = call;
    let rstd = &s.rstd(var)[..];
    let (through, dx) = if s.training { (dx, None) } else { (None, dx) };
    if through.is_some() || dweight.is_some() || dbias.is_some() {
        let groups =
            group_norm::Backward { x, weight, mean, rstd, dy, dx: through, dweight, dbias };
        group_norm::backward(&s.as_groups(), groups);
    }
    if let Some(dx) = dx {
        let factor: Vec<f32> = rstd.iter().zip(weight).map(|(r, w)| r * w).collect();
        dx.par_chunks_mut(ROWS * s.c)
            .zip(dy.par_chunks(ROWS * s.c))
            .for_each(|(dx, dy)| scale(dy, &factor, dx));
    }
}
