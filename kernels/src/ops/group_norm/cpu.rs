//! Group norm in f32: row splits are spread over threads, inner loops run over the channels of a
//! pixel.

use rayon::prelude::*;

use super::{Backward, Forward, GroupNorm};
use crate::call::Host;
use crate::cpu::simd::madd;
use crate::simd;

/// Pixels per task. Fixed, so that sums have the same order for any number of threads. 64 rows of
/// 256 channels stay in the L2 cache between the mean and the variance of a split.
pub const ROWS: usize = 64;

simd! {
    /// Sums over rows of each channel.
    fn sums<FMA>(x: &[f32], sum: &mut [f32]) {
        let c = sum.len();
        sum.fill(0.0);
        for row in x.chunks_exact(c) {
            for j in 0..c {
                sum[j] += row[j];
            }
        }
    }

    /// Sums over rows of the squared distance from `mean[c]` of each channel.
    fn squares<FMA>(x: &[f32], mean: &[f32], sum: &mut [f32]) {
        let c = sum.len();
        let mean = &mean[..c];
        sum.fill(0.0);
        for row in x.chunks_exact(c) {
            for j in 0..c {
                let d = row[j] - mean[j];
                sum[j] = madd::<FMA>(d, d, sum[j]);
            }
        }
    }

    /// `y = (x - mean) * factor + bias` with everything per channel.
    pub fn normalise<FMA>(x: &[f32], mean: &[f32], factor: &[f32], bias: &[f32], y: &mut [f32]) {
        let c = mean.len();
        let (factor, bias) = (&factor[..c], &bias[..c]);
        for (row, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for j in 0..c {
                y[j] = madd::<FMA>(row[j] - mean[j], factor[j], bias[j]);
            }
        }
    }

    /// Adds sums over rows of `dy` and of `dy * xhat`.
    fn gradient_sums<FMA>(
        x: &[f32], dy: &[f32], mean: &[f32], rstd: &[f32], sum: &mut [f32], sum_x: &mut [f32],
    ) {
        let c = mean.len();
        let (rstd, sum, sum_x) = (&rstd[..c], &mut sum[..c], &mut sum_x[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for j in 0..c {
                sum[j] += dy[j];
                sum_x[j] = madd::<FMA>(dy[j], (x[j] - mean[j]) * rstd[j], sum_x[j]);
            }
        }
    }

    /// `dx = dy * a + (x - mean) * b + d` with everything per channel.
    fn dx_rows<FMA>(
        x: &[f32], dy: &[f32], mean: &[f32], a: &[f32], b: &[f32], d: &[f32], dx: &mut [f32],
    ) {
        let c = mean.len();
        let (a, b, d) = (&a[..c], &b[..c], &d[..c]);
        for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            for j in 0..c {
                dx[j] = madd::<FMA>(dy[j], a[j], madd::<FMA>(x[j] - mean[j], b[j], d[j]));
            }
        }
    }
}

/// Row splits, none of which spans two images.
fn splits<'a>(s: &GroupNorm, x: &'a [f32]) -> impl IndexedParallelIterator<Item = &'a [f32]> {
    let (c, image, count) = (s.c, s.hw * s.c, s.hw.div_ceil(ROWS));
    (0..s.b * count).into_par_iter().map(move |k| {
        let row = k % count * ROWS * c;
        &x[k / count * image..][row..image.min(row + ROWS * c)]
    })
}

/// One value per group and image, repeated for the channels of the group: `[b, c]`.
fn spread(s: &GroupNorm, values: &[f32]) -> Vec<f32> {
    let width = s.c / s.groups;
    values.iter().flat_map(|v| std::iter::repeat_n(*v, width)).collect()
}

/// Count, mean and sum of squared distances from it of each group of one row split.
fn moments(s: &GroupNorm, x: &[f32]) -> (f64, Vec<(f64, f64)>) {
    let width = s.c / s.groups;
    let n = (x.len() / s.groups) as f64;
    let (mut mean, mut sum) = (vec![0.0; s.c], vec![0.0; s.c]);
    sums(x, &mut sum);
    for (mean, sum) in mean.chunks_exact_mut(width).zip(sum.chunks_exact(width)) {
        mean.fill((sum.iter().map(|v| f64::from(*v)).sum::<f64>() / n) as f32);
    }
    squares(x, &mean, &mut sum);
    let squares = sum.chunks_exact(width).map(|g| g.iter().map(|v| f64::from(*v)).sum::<f64>());
    (n, mean.iter().step_by(width).map(|m| f64::from(*m)).zip(squares).collect())
}

/// Mean and variance of each group of each image.
pub fn moments_of_groups(s: &GroupNorm, x: &[f32]) -> Vec<(f64, f64)> {
    let parts: Vec<_> = splits(s, x).map(|x| moments(s, x)).collect();
    let mut all = Vec::with_capacity(s.sets());
    for image in 0..s.b {
        let count = s.hw.div_ceil(ROWS);
        let parts = &parts[image * count..(image + 1) * count];
        for j in 0..s.groups {
            let (mut n, mut m, mut m2) = (0.0, 0.0, 0.0);
            for (n_part, groups) in parts {
                // Chan, Golub and LeVeque: merges two sets with different means.
                let (m_part, m2_part) = groups[j];
                let (delta, total) = (m_part - m, n + n_part);
                m += delta * n_part / total;
                m2 += m2_part + delta * delta * n * n_part / total;
                n = total;
            }
            all.push((m, m2 / n));
        }
    }
    all
}

pub fn forward(s: &GroupNorm, call: Forward<'_, Host, f32>) {
    let Forward { x, weight, bias, y, mean, rstd } = call;
    let (c, image) = (s.c, s.hw * s.c);
    if x.is_empty() {
        return;
    }
    for (i, (m, var)) in moments_of_groups(s, x).into_iter().enumerate() {
        (mean[i], rstd[i]) = (m as f32, (1.0 / (var + s.eps).sqrt()) as f32);
    }
    let (mean, mut factor) = (spread(s, mean), spread(s, rstd));
    factor.chunks_exact_mut(c).for_each(|f| f.iter_mut().zip(weight).for_each(|(f, w)| *f *= w));
    y.par_chunks_mut(image).zip(x.par_chunks(image)).enumerate().for_each(|(k, (y, x))| {
        let at = k * c..(k + 1) * c;
        y.par_chunks_mut(ROWS * c)
            .zip(x.par_chunks(ROWS * c))
            .for_each(|(y, x)| normalise(x, &mean[at.clone()], &factor[at.clone()], bias, y));
    });
}

pub fn backward(s: &GroupNorm, call: Backward<'_, Host, f32>) {
    let Backward { x, weight, mean, rstd, dy, dx, dweight, dbias } = call;
    let (c, count) = (s.c, s.hw.div_ceil(ROWS));
    if x.is_empty() {
        return;
    }
    let (mean, rstd) = (spread(s, mean), spread(s, rstd));
    let parts: Vec<(Vec<f32>, Vec<f32>)> = splits(s, x)
        .zip(splits(s, dy))
        .enumerate()
        .map(|(k, (x, dy))| {
            let at = k / count * c..(k / count + 1) * c;
            let (mut sum, mut sum_x) = (vec![0.0; c], vec![0.0; c]);
            gradient_sums(x, dy, &mean[at.clone()], &rstd[at], &mut sum, &mut sum_x);
            (sum, sum_x)
        })
        .collect();
    // Per image and channel: sums over the pixels of dy and of dy * xhat.
    let (mut sum, mut sum_x) = (vec![0.0; s.b * c], vec![0.0; s.b * c]);
    let add = |out: &mut [f32], part: &[f32]| out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
    for (k, (part, part_x)) in parts.iter().enumerate() {
        let at = k / count * c..(k / count + 1) * c;
        add(&mut sum[at.clone()], part);
        add(&mut sum_x[at], part_x);
    }
    if let Some(out) = dweight {
        sum_x.chunks_exact(c).for_each(|part| add(out, part));
    }
    if let Some(out) = dbias {
        sum.chunks_exact(c).for_each(|part| add(out, part));
    }
    if let Some(dx) = dx {
        write_dx(s, x, weight, dy, &[&mean, &rstd, &sum, &sum_x], dx);
    }
}

/// `dx` from `[mean, rstd, sum of dy, sum of dy * xhat]`, each `[b, c]`.
fn write_dx(
    s: &GroupNorm,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    [mean, rstd, sum, sum_x]: &[&[f32]; 4],
    dx: &mut [f32],
) {
    let (c, image, width) = (s.c, s.hw * s.c, s.c / s.groups);
    let inv_n = 1.0 / (s.hw * width) as f32;
    let total = |sum: &[f32], first: usize| -> f32 {
        (first..first + width).map(|i| sum[i] * weight[i % c]).sum::<f32>() * inv_n
    };
    // dx = rstd * (dy * weight - mean(g) - (x - mean) * rstd * mean(g * xhat))
    let (mut a, mut b, mut d) = (vec![0.0; s.b * c], vec![0.0; s.b * c], vec![0.0; s.b * c]);
    for first in (0..s.b * c).step_by(width) {
        let (mean_g, mean_gx) = (total(sum, first), total(sum_x, first));
        for i in first..first + width {
            a[i] = rstd[i] * weight[i % c];
            b[i] = -rstd[i] * rstd[i] * mean_gx;
            d[i] = -rstd[i] * mean_g;
        }
    }
    let maps = dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(dy.par_chunks(image));
    maps.enumerate().for_each(|(k, ((dx, x), dy))| {
        let at = k * c..(k + 1) * c;
        let (mean, a) = (&mean[at.clone()], &a[at.clone()]);
        let (b, d) = (&b[at.clone()], &d[at]);
        dx.par_chunks_mut(ROWS * c)
            .zip(x.par_chunks(ROWS * c).zip(dy.par_chunks(ROWS * c)))
            .for_each(|(dx, (x, dy))| dx_rows(x, dy, mean, a, b, d, dx));
    });
}
