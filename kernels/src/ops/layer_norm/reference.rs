//! Layer norm in plain loops: the reference implementation.

use super::{Backward, Forward, LayerNorm, Stats, cpu};
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::{Real, Write};

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = LayerNorm;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &LayerNorm, c: Forward<'_, Host, U>) {
        let Forward { x, weight, bias, y, mean, rstd } = c;
        Stats::<Host, U>::reference(s, Stats { x, mean, rstd });
        for i in 0..s.n {
            for j in 0..s.c {
                y[i * s.c + j] = (x[i * s.c + j] - mean[i]) * rstd[i] * weight[j] + bias[j];
            }
        }
    }

    fn fast(s: &LayerNorm, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Stats<'_, M, T> {
    type Op = LayerNorm;
    type At<'a, N: Memory, U: Element> = Stats<'a, N, U>;

    fn reference<U: Real>(s: &LayerNorm, Stats { x, mean, rstd }: Stats<'_, Host, U>) {
        let inv_c = U::ONE / U::of(s.c as f64);
        for i in 0..s.n {
            let row = &x[i * s.c..(i + 1) * s.c];
            mean[i] = row.iter().copied().sum::<U>() * inv_c;
            let var = row.iter().map(|&v| (v - mean[i]) * (v - mean[i])).sum::<U>() * inv_c;
            rstd[i] = U::ONE / (var + U::of(s.eps)).sqrt();
        }
    }

    fn fast(s: &LayerNorm, c: Stats<'_, Host, f32>) {
        cpu::stats(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = LayerNorm;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &LayerNorm, c: Backward<'_, Host, U>) {
        let Backward { x, weight, mean, rstd, dy, mut dx, write, mut dweight, mut dbias } = c;
        let inv_c = U::ONE / U::of(s.c as f64);
        for i in 0..s.n {
            let (mean, rstd) = (mean[i], rstd[i]);
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
            if let Some(dx) = &mut dx {
                let mean_g = (0..s.c).map(g).sum::<U>() * inv_c;
                let mean_gx = (0..s.c).map(|j| g(j) * xhat(j)).sum::<U>() * inv_c;
                for j in 0..s.c {
                    let d = rstd * (g(j) - mean_g - xhat(j) * mean_gx);
                    let dx = &mut dx[i * s.c + j];
                    *dx = if write == Write::Add { *dx + d } else { d };
                }
            }
        }
    }

    fn fast(s: &LayerNorm, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
