//! Layer norm in plain loops: the reference implementation.

use super::{LayerNorm, Stats};
use crate::Real;
use crate::Write;

pub fn forward<T: Real>(
    s: &LayerNorm,
    x: &[T],
    weight: &[T],
    bias: &[T],
    y: &mut [T],
    mean: &mut [T],
    rstd: &mut [T],
) {
    stats(s, x, mean, rstd);
    for i in 0..s.n {
        for j in 0..s.c {
            y[i * s.c + j] = (x[i * s.c + j] - mean[i]) * rstd[i] * weight[j] + bias[j];
        }
    }
}

pub fn stats<T: Real>(s: &LayerNorm, x: &[T], mean: &mut [T], rstd: &mut [T]) {
    let inv_c = T::ONE / T::of(s.c as f64);
    for i in 0..s.n {
        let row = &x[i * s.c..(i + 1) * s.c];
        mean[i] = row.iter().copied().sum::<T>() * inv_c;
        let var = row.iter().map(|&v| (v - mean[i]) * (v - mean[i])).sum::<T>() * inv_c;
        rstd[i] = T::ONE / (var + T::of(s.eps)).sqrt();
    }
}

pub fn backward<T: Real>(
    s: &LayerNorm,
    x: &[T],
    weight: &[T],
    stats: Stats<'_, T>,
    dy: &[T],
    mut dx: Option<(&mut [T], Write)>,
    mut dweight: Option<&mut [T]>,
    mut dbias: Option<&mut [T]>,
) {
    let inv_c = T::ONE / T::of(s.c as f64);
    for i in 0..s.n {
        let (mean, rstd) = (stats.mean[i], stats.rstd[i]);
        let xhat = |j: usize| (x[i * s.c + j] - mean) * rstd;
        let g = |j: usize| dy[i * s.c + j] * weight[j];
        // y = xhat * weight + bias
        for j in 0..s.c {
            if let Some(d) = &mut dweight {
                d[j] += dy[i * s.c + j] * xhat(j);
            }
            if let Some(d) = &mut dbias {
                d[j] += dy[i * s.c + j];
            }
        }
        // xhat = (x - mean) * rstd, where mean and rstd depend on every x of the row
        if let Some((dx, write)) = &mut dx {
            let mean_g = (0..s.c).map(g).sum::<T>() * inv_c;
            let mean_gx = (0..s.c).map(|j| g(j) * xhat(j)).sum::<T>() * inv_c;
            for j in 0..s.c {
                let d = rstd * (g(j) - mean_g - xhat(j) * mean_gx);
                let dx = &mut dx[i * s.c + j];
                *dx = if *write == Write::Add { *dx + d } else { d };
            }
        }
    }
}
