//! Layer norm in f32 with explicit SIMD lanes; rows are split over threads.

use rayon::prelude::*;

use super::{Backward, Forward, LayerNorm, Stats};
use crate::Write;
use crate::call::Host;
use crate::cpu::simd::{LANES, madd, sum, sum_lanes};
use crate::simd;

/// Rows per task. Fixed, so that parameter gradients are summed in the same order for any number of
/// threads.
pub const ROWS: usize = 64;

/// Mean and reciprocal standard deviation of a row, which stays in L1 between the two.
#[inline(always)]
fn row_stats<const FMA: bool>(s: &LayerNorm, row: &[f32]) -> (f32, f32) {
    let inv_c = 1.0 / s.c as f32;
    let m = sum(row) * inv_c;
    let mut acc = [0.0; LANES];
    let (body, rest) = row.as_chunks::<LANES>();
    for chunk in body {
        for l in 0..LANES {
            acc[l] = madd::<FMA>(chunk[l] - m, chunk[l] - m, acc[l]);
        }
    }
    let rest: f32 = rest.iter().map(|v| (v - m) * (v - m)).sum();
    (m, 1.0 / ((sum_lanes(acc) + rest) * inv_c + s.eps as f32).sqrt())
}

simd! {
    fn stats_rows<FMA>(s: &LayerNorm, x: &[f32], mean: &mut [f32], rstd: &mut [f32]) {
        for (i, row) in x.chunks_exact(s.c).enumerate() {
            (mean[i], rstd[i]) = row_stats::<FMA>(s, row);
        }
    }

    fn forward_rows<FMA>(
        s: &LayerNorm, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], mean: &mut [f32],
        rstd: &mut [f32],
    ) {
        for (i, (row, out)) in x.chunks_exact(s.c).zip(y.chunks_exact_mut(s.c)).enumerate() {
            let (m, r) = row_stats::<FMA>(s, row);
            for j in 0..s.c {
                out[j] = madd::<FMA>((row[j] - m) * r, weight[j], bias[j]);
            }
            (mean[i], rstd[i]) = (m, r);
        }
    }

    fn dx_row<FMA>(
        x: &[f32], weight: &[f32], mean: f32, rstd: f32, dy: &[f32], dx: &mut [f32], add: bool,
    ) {
        let c = x.len();
        let (mut g_acc, mut gx_acc) = ([0.0; LANES], [0.0; LANES]);
        let full = c - c % LANES;
        for j in (0..full).step_by(LANES) {
            let (x, w, dy) = (&x[j..j + LANES], &weight[j..j + LANES], &dy[j..j + LANES]);
            for l in 0..LANES {
                let g = dy[l] * w[l];
                g_acc[l] += g;
                gx_acc[l] = madd::<FMA>(g, (x[l] - mean) * rstd, gx_acc[l]);
            }
        }
        let (mut mean_g, mut mean_gx) = (sum_lanes(g_acc), sum_lanes(gx_acc));
        for j in full..c {
            let g = dy[j] * weight[j];
            mean_g += g;
            mean_gx += g * (x[j] - mean) * rstd;
        }
        (mean_g, mean_gx) = (mean_g / c as f32, mean_gx / c as f32);
        for j in 0..c {
            let xhat = (x[j] - mean) * rstd;
            let old = if add { dx[j] } else { 0.0 };
            dx[j] = old + rstd * (dy[j] * weight[j] - mean_g - xhat * mean_gx);
        }
    }

    fn parameter_rows<FMA>(
        x: &[f32], mean: &[f32], rstd: &[f32], dy: &[f32], dweight: &mut [f32], dbias: &mut [f32],
    ) {
        let c = dweight.len();
        for i in 0..mean.len() {
            let (m, r) = (mean[i], rstd[i]);
            let (x, dy) = (&x[i * c..(i + 1) * c], &dy[i * c..(i + 1) * c]);
            for j in 0..c {
                dweight[j] = madd::<FMA>(dy[j], (x[j] - m) * r, dweight[j]);
                dbias[j] += dy[j];
            }
        }
    }
}

pub fn forward(s: &LayerNorm, c: Forward<'_, Host, f32>) {
    let Forward { x, weight, bias, y, mean, rstd } = c;
    y.par_chunks_mut(ROWS * s.c)
        .zip(x.par_chunks(ROWS * s.c))
        .zip(mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS)))
        .for_each(|((y, x), (mean, rstd))| forward_rows(s, x, weight, bias, y, mean, rstd));
}

pub fn stats(s: &LayerNorm, Stats { x, mean, rstd }: Stats<'_, Host, f32>) {
    x.par_chunks(ROWS * s.c)
        .zip(mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS)))
        .for_each(|(x, (mean, rstd))| stats_rows(s, x, mean, rstd));
}

pub fn backward(s: &LayerNorm, call: Backward<'_, Host, f32>) {
    let Backward { x, weight, mean, rstd, dy, dx, write, dweight, dbias } = call;
    let c = s.c;
    if let Some(dx) = dx {
        dx.par_chunks_mut(ROWS * c).enumerate().for_each(|(k, dx)| {
            for (r, dx) in dx.chunks_exact_mut(c).enumerate() {
                let i = k * ROWS + r;
                let row = i * c..(i + 1) * c;
                let (mean, rstd) = (mean[i], rstd[i]);
                let add = write == Write::Add;
                dx_row(&x[row.clone()], weight, mean, rstd, &dy[row], dx, add);
            }
        });
    }
    if dweight.is_none() && dbias.is_none() {
        return;
    }
    let parts: Vec<(Vec<f32>, Vec<f32>)> = x
        .par_chunks(ROWS * c)
        .zip(dy.par_chunks(ROWS * c))
        .zip(mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS)))
        .map(|((x, dy), (mean, rstd))| {
            let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
            parameter_rows(x, mean, rstd, dy, &mut dw, &mut db);
            (dw, db)
        })
        .collect();
    let add = |out: &mut [f32], part: &[f32]| out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
    if let Some(out) = dweight {
        parts.iter().for_each(|(dw, _)| add(out, dw));
    }
    if let Some(out) = dbias {
        parts.iter().for_each(|(_, db)| add(out, db));
    }
}
