//! Mask losses in f32; pairs are split over threads.

use rayon::prelude::*;

use super::{MaskLoss, MaskLosses};
use crate::cpu::logistic::{sigmoid, sigmoid_and_log};
use crate::cpu::simd::{LANES, madd, sum_lanes};
use crate::simd;

simd! {
    /// Sums of `BCE(x, t)`, `s`, `t` and `s t`.
    fn row_sums<FMA>(x: &[f32], t: &[f32]) -> [f32; 4] {
        let mut acc = [[0.0; LANES]; 4];
        let (xs, x_rest) = x.as_chunks::<LANES>();
        let (ts, t_rest) = t.as_chunks::<LANES>();
        for (x, t) in xs.iter().zip(ts) {
            for l in 0..LANES {
                let (s, log) = sigmoid_and_log::<FMA>(x[l]);
                acc[0][l] += madd::<FMA>(-x[l], t[l], x[l].max(0.0)) + log;
                acc[1][l] += s;
                acc[2][l] += t[l];
                acc[3][l] = madd::<FMA>(s, t[l], acc[3][l]);
            }
        }
        for (l, (&x, &t)) in x_rest.iter().zip(t_rest).enumerate() {
            let (s, log) = sigmoid_and_log::<FMA>(x);
            acc[0][l] += madd::<FMA>(-x, t, x.max(0.0)) + log;
            acc[1][l] += s;
            acc[2][l] += t;
            acc[3][l] = madd::<FMA>(s, t, acc[3][l]);
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

pub fn forward(s: &MaskLoss, x: &[f32], t: &[f32], sums: &mut [f32]) -> f32 {
    if s.r == 0 {
        return 0.0;
    }
    let rows = x.par_chunks(s.p).zip(t.par_chunks(s.p)).zip(sums.par_chunks_mut(3));
    let entropies: Vec<f32> = rows
        .map(|((x, t), sums)| {
            let [entropy, rest @ ..] = row_sums(x, t);
            sums.copy_from_slice(&rest);
            entropy
        })
        .collect();
    entropies.iter().sum()
}

pub fn backward(
    s: &MaskLoss,
    x: &[f32],
    t: &[f32],
    sums: &[f32],
    d: MaskLosses<f32>,
    dx: &mut [f32],
) {
    if s.r == 0 {
        return;
    }
    let rows = x.par_chunks(s.p).zip(t.par_chunks(s.p)).zip(sums.par_chunks(3));
    rows.zip(dx.par_chunks_mut(s.p)).for_each(|(((x, t), sums), dx)| {
        let (top, den) = MaskLoss::ratio(sums);
        row_gradient(x, t, d.mask, d.dice, top, den, dx);
    });
}
