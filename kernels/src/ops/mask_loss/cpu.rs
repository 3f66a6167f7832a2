//! Mask losses in f32; pairs are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, MaskLoss, reference};
use crate::call::Host;
use crate::cpu::logistic::{sigmoid, sigmoid_and_log};
use crate::cpu::simd::{LANES, madd, sum_lanes};
use crate::simd;

simd! {
    /// Sums of `s`, `t`, `s t` and `BCE(x, t)`.
    fn row_sums<FMA>(x: &[f32], t: &[f32]) -> [f32; 4] {
        let mut acc = [[0.0; LANES]; 4];
        let (xs, x_rest) = x.as_chunks::<LANES>();
        let (ts, t_rest) = t.as_chunks::<LANES>();
        for (x, t) in xs.iter().zip(ts) {
            for l in 0..LANES {
                let (s, log) = sigmoid_and_log::<FMA>(x[l]);
                acc[0][l] += s;
                acc[1][l] += t[l];
                acc[2][l] = madd::<FMA>(s, t[l], acc[2][l]);
                acc[3][l] += madd::<FMA>(-x[l], t[l], x[l].max(0.0)) + log;
            }
        }
        for (l, (&x, &t)) in x_rest.iter().zip(t_rest).enumerate() {
            let (s, log) = sigmoid_and_log::<FMA>(x);
            acc[0][l] += s;
            acc[1][l] += t;
            acc[2][l] = madd::<FMA>(s, t, acc[2][l]);
            acc[3][l] += madd::<FMA>(-x, t, x.max(0.0)) + log;
        }
        acc.map(sum_lanes)
    }

    fn row_gradient<FMA>(
        x: &[f32], t: &[f32], mask: f32, dice: f32, top: f32, den: f32, dx: &mut [f32],
    ) {
        // dice * (2 t den - top) / den^2 = a t - b
        let (a, b) = (2.0 * dice / den, dice * top / (den * den));
        for ((&x, &t), dx) in x.iter().zip(t).zip(dx) {
            let s = sigmoid::<FMA>(x);
            let slope = s * (1.0 - s) * madd::<FMA>(a, t, -b);
            *dx = madd::<FMA>(mask, s - t, -slope);
        }
    }
}

/// Factors of the plain sums, computed in f64.
fn scales(s: &MaskLoss, num: &[f32]) -> [f32; 2] {
    s.scales(f64::from(num[0])).map(|scale| scale as f32)
}

pub fn forward(s: &MaskLoss, c: Forward<'_, Host, f32>) {
    let Forward { x, t, num, weights, sums, losses } = c;
    if s.r > 0 {
        let rows = x.par_chunks(s.p).zip(t.par_chunks(s.p)).zip(sums.par_chunks_mut(4));
        rows.for_each(|((x, t), sums)| sums.copy_from_slice(&row_sums(x, t)));
    }
    reference::finish(weights, sums, scales(s, num), losses);
}

pub fn backward(s: &MaskLoss, c: Backward<'_, Host, f32>) {
    let Backward { x, t, num, weights, sums, dlosses, dx } = c;
    if s.r == 0 {
        return;
    }
    let scales = scales(s, num);
    let d = [dlosses[0] * scales[0], dlosses[1] * scales[1]];
    let rows = x.par_chunks(s.p).zip(t.par_chunks(s.p)).zip(sums.par_chunks(4));
    rows.zip(dx.par_chunks_mut(s.p)).enumerate().for_each(|(i, (((x, t), sums), dx))| {
        let (top, den) = MaskLoss::ratio(sums);
        let weight = weights.map_or(1.0, |weights| weights[i]);
        row_gradient(x, t, weight * d[0], weight * d[1], top, den, dx);
    });
}
