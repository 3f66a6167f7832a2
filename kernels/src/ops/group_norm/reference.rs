//! Group norm in plain loops: the reference implementation.

use super::{Backward, Forward, GroupNorm, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

/// Indices into `[b, hw, c]` and channels of one group of one image.
fn group(s: &GroupNorm, image: usize, j: usize) -> impl Iterator<Item = (usize, usize)> {
    let (c, hw, width) = (s.c, s.hw, s.c / s.groups);
    (0..hw).flat_map(move |p| {
        (j * width..(j + 1) * width).map(move |channel| ((image * hw + p) * c + channel, channel))
    })
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = GroupNorm;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &GroupNorm, c: Forward<'_, Host, U>) {
        let Forward { x, weight, bias, y, mean, rstd } = c;
        let inv_n = U::ONE / U::of((s.hw * s.c / s.groups) as f64);
        for image in 0..s.b {
            for j in 0..s.groups {
                let at = image * s.groups + j;
                let m = group(s, image, j).map(|(i, _)| x[i]).sum::<U>() * inv_n;
                let var =
                    group(s, image, j).map(|(i, _)| (x[i] - m) * (x[i] - m)).sum::<U>() * inv_n;
                (mean[at], rstd[at]) = (m, U::ONE / (var + U::of(s.eps)).sqrt());
                for (i, channel) in group(s, image, j) {
                    y[i] = (x[i] - m) * rstd[at] * weight[channel] + bias[channel];
                }
            }
        }
    }

    fn fast(s: &GroupNorm, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = GroupNorm;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &GroupNorm, c: Backward<'_, Host, U>) {
        let Backward { x, weight, mean, rstd, dy, mut dx, mut dweight, mut dbias } = c;
        let inv_n = U::ONE / U::of((s.hw * s.c / s.groups) as f64);
        for image in 0..s.b {
            for j in 0..s.groups {
                let at = image * s.groups + j;
                let (mean, rstd) = (mean[at], rstd[at]);
                let xhat = |i: usize| (x[i] - mean) * rstd;
                let (mut mean_g, mut mean_gx) = (U::ZERO, U::ZERO);
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

    fn fast(s: &GroupNorm, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
