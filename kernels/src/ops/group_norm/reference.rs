//! Group norm in plain loops: the reference implementation.

use super::{GroupNorm, Stats};
use crate::Real;

/// Indices into `[b, hw, c]` and channels of one group of one image.
fn group(s: &GroupNorm, image: usize, j: usize) -> impl Iterator<Item = (usize, usize)> {
    let (c, hw, width) = (s.c, s.hw, s.c / s.groups);
    (0..hw).flat_map(move |p| {
        (j * width..(j + 1) * width).map(move |channel| ((image * hw + p) * c + channel, channel))
    })
}

/// Writes `y`, `mean` and `rstd`.
pub fn forward<T: Real>(
    s: &GroupNorm,
    x: &[T],
    weight: &[T],
    bias: &[T],
    y: &mut [T],
    mean: &mut [T],
    rstd: &mut [T],
) {
    let inv_n = T::ONE / T::of((s.hw * s.c / s.groups) as f64);
    for image in 0..s.b {
        for j in 0..s.groups {
            let at = image * s.groups + j;
            let m = group(s, image, j).map(|(i, _)| x[i]).sum::<T>() * inv_n;
            let var = group(s, image, j).map(|(i, _)| (x[i] - m) * (x[i] - m)).sum::<T>() * inv_n;
            (mean[at], rstd[at]) = (m, T::ONE / (var + T::of(s.eps)).sqrt());
            for (i, channel) in group(s, image, j) {
                y[i] = (x[i] - m) * rstd[at] * weight[channel] + bias[channel];
            }
        }
    }
}

/// Writes `dx` and adds to `dweight` and `dbias`.
pub fn backward<T: Real>(
    s: &GroupNorm,
    x: &[T],
    weight: &[T],
    stats: Stats<'_, T>,
    dy: &[T],
    mut dx: Option<&mut [T]>,
    mut dweight: Option<&mut [T]>,
    mut dbias: Option<&mut [T]>,
) {
    let inv_n = T::ONE / T::of((s.hw * s.c / s.groups) as f64);
    for image in 0..s.b {
        for j in 0..s.groups {
            let at = image * s.groups + j;
            let (mean, rstd) = (stats.mean[at], stats.rstd[at]);
            let xhat = |i: usize| (x[i] - mean) * rstd;
            let (mut mean_g, mut mean_gx) = (T::ZERO, T::ZERO);
            for (i, channel) in group(s, image, j) {
                // y[i] = xhat * weight + bias
                if let Some(d) = &mut dweight {
                    d[channel] += dy[i] * xhat(i);
                }
                if let Some(d) = &mut dbias {
                    d[channel] += dy[i];
                }
                mean_g += dy[i] * weight[channel] * inv_n;
                mean_gx += dy[i] * weight[channel] * xhat(i) * inv_n;
            }
            // xhat = (x - mean) * rstd, where mean and rstd depend on every x of the group
            if let Some(dx) = &mut dx {
                for (i, channel) in group(s, image, j) {
                    dx[i] = rstd * (dy[i] * weight[channel] - mean_g - xhat(i) * mean_gx);
                }
            }
        }
    }
}
