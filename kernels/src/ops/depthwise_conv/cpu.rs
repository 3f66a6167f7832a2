//! Depthwise convolution in f32, with vectors along the channels.
//!
//! A task takes [`LANES`] channels of a strip of rows and copies what they read into a panel with
//! zeros around the map. So sums know neither edges nor odd channel counts and read contiguous
//! memory, however many channels a pixel has. The copy costs a few per cent of the products. The
//! gradient of a weight is summed by one task, strip by strip, in the same order for any number of
//! threads.

use rayon::prelude::*;

use super::{Backward, DepthwiseConv, Forward, ParameterGradients};
use crate::call::Host;
use crate::cpu::scratch::{Shared, take, with_scratch};
use crate::cpu::simd::{LANES, madd};
use crate::dry_run::Cost;
use crate::ops::add::add_column_sums;
use crate::simd;

/// Rows of results per strip.
const STRIP: usize = 32;

/// Neighbouring vectors of sums in registers, which AVX2 has few of: pixels of `y`, or columns of
/// the kernel for its gradient.
const SUMS: usize = 4;

/// Strip of a map `[h, w, c]` in a panel `[rows, columns, LANES]`, behind `pad` rows and columns of
/// zeros.
#[derive(Clone, Copy)]
struct Padded {
    h: usize,
    w: usize,
    c: usize,
    pad: usize,
    rows: usize,
    columns: usize,
}

impl Padded {
    fn len(&self) -> usize {
        self.rows * self.columns * LANES
    }
}

impl DepthwiseConv {
    /// What a strip of results reads of `x`, with whole groups of [`SUMS`] pixels and of columns of
    /// the kernel.
    fn padded(&self) -> Padded {
        let (ho, wo) = self.output().unwrap_or((0, 0));
        let columns = wo.next_multiple_of(SUMS) + self.k.next_multiple_of(SUMS);
        let rows = STRIP.min(ho) + self.k - 1;
        Padded { h: self.h, w: self.w, c: self.c, pad: self.pad, rows, columns }
    }

    /// A strip of `dy`.
    fn padded_dy(&self) -> Padded {
        let (h, w) = self.output().unwrap_or((0, 0));
        Padded { h, w, c: self.c, pad: 0, rows: STRIP.min(h), columns: w }
    }

    /// Elements of the gradient of a panel of weights, `[k, k rounded up, LANES]`.
    fn sums(&self) -> usize {
        self.k * self.k.next_multiple_of(SUMS) * LANES
    }
}

/// Cost of a convolution.
pub fn cost(s: &DepthwiseConv) -> Cost {
    let (ho, wo) = s.output().unwrap_or((0, 0));
    Cost { task: s.padded().len(), ..Cost::products(s.b * ho * wo * s.c * s.k * s.k) }
}

/// Cost of the gradient of the weight.
pub fn cost_of_dweight(s: &DepthwiseConv) -> Cost {
    let cost = cost(s);
    Cost { task: cost.task + s.padded_dy().len() + s.sums(), ..cost }
}

pub fn forward(s: &DepthwiseConv, Forward { x, weight, bias, y }: Forward<'_, Host, f32>) {
    convolve(s, x, &panels(s, weight, |tap| tap), bias, y);
}

pub fn backward(s: &DepthwiseConv, Backward { weight, dy, dx }: Backward<'_, Host, f32>) {
    let last = s.k * s.k - 1;
    convolve(&s.turned(), dy, &panels(s, weight, |tap| last - tap), None, dx);
}

pub fn parameters(s: &DepthwiseConv, c: ParameterGradients<'_, Host, f32>) {
    let ParameterGradients { x, dy, dweight: dw, dbias } = c;
    if let (Some(x), Some(dw)) = (x, dw) {
        dweight(s, x, dy, dw);
    }
    if let Some(dbias) = dbias {
        add_column_sums(s.c, dy, dbias);
    }
}

/// Weight `[c, k, k]` as panels `[k, k, LANES]` of the channels, with zeros behind the last. Tap `t`
/// of a panel is tap `order(t)` of the weight.
fn panels(s: &DepthwiseConv, weight: &[f32], order: impl Fn(usize) -> usize) -> Vec<f32> {
    let taps = s.k * s.k;
    let mut out = vec![0.0; s.c.div_ceil(LANES) * taps * LANES];
    for (panel, kernels) in out.chunks_exact_mut(taps * LANES).zip(weight.chunks(taps * LANES)) {
        for (lane, kernel) in kernels.chunks_exact(taps).enumerate() {
            for tap in 0..taps {
                panel[tap * LANES + lane] = kernel[order(tap)];
            }
        }
    }
    out
}

fn convolve(s: &DepthwiseConv, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let ((ho, wo), padded) = (s.output().unwrap_or((0, 0)), s.padded());
    let (panels, strips) = (s.c.div_ceil(LANES), ho.div_ceil(STRIP));
    let y = Shared::new(y);
    (0..s.b * panels * strips).into_par_iter().for_each(|task| {
        let (image, panel, strip) = (task / strips / panels, task / strips % panels, task % strips);
        let (channel, first) = (panel * LANES, strip * STRIP);
        let count = LANES.min(s.c - channel);
        let mut start = [0.0; LANES];
        if let Some(bias) = bias {
            start[..count].copy_from_slice(&bias[channel..channel + count]);
        }
        let weight = &weight[panel * s.k * s.k * LANES..][..s.k * s.k * LANES];
        with_scratch(padded.len(), |map| {
            pack(&padded, &x[image * s.h * s.w * s.c..], channel, first, map);
            for row in 0..STRIP.min(ho - first) {
                let rows = &map[row * padded.columns * LANES..];
                let at = (image * ho + first + row) * wo * s.c + channel;
                let y = Row { map: &y, at, step: s.c, channels: count, pixels: wo };
                convolve_row(s.k, padded.columns, rows, weight, &start, &y);
            }
        });
    });
}

/// `dweight += sum dy x`.
fn dweight(s: &DepthwiseConv, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    let ((ho, wo), taps) = (s.output().unwrap_or((0, 0)), s.k * s.k);
    let (padded, padded_dy, len) = (s.padded(), s.padded_dy(), s.sums());
    let panels = dweight.par_chunks_mut(taps * LANES).enumerate();
    panels.for_each(|(panel, dweight)| {
        let channel = panel * LANES;
        with_scratch(padded.len() + padded_dy.len() + len, |mut rest| {
            let map = take(&mut rest, padded.len());
            let (map_dy, sums) = (take(&mut rest, padded_dy.len()), rest);
            sums.fill(0.0);
            for image in 0..s.b {
                for first in (0..ho).step_by(STRIP) {
                    pack(&padded, &x[image * s.h * s.w * s.c..], channel, first, map);
                    pack(&padded_dy, &dy[image * ho * wo * s.c..], channel, first, map_dy);
                    let rows = map_dy.chunks_exact(wo * LANES).take(STRIP.min(ho - first));
                    for (row, dy) in rows.enumerate() {
                        let x = &map[row * padded.columns * LANES..];
                        products_of_row(s.k, padded.columns, x, dy, sums);
                    }
                }
            }
            let columns = s.k.next_multiple_of(SUMS);
            for (lane, kernel) in dweight.chunks_exact_mut(taps).enumerate() {
                for (tap, d) in kernel.iter_mut().enumerate() {
                    *d += sums[(tap / s.k * columns + tap % s.k) * LANES + lane];
                }
            }
        });
    });
}

/// Channels of a row of results, which belong to one task.
struct Row<'a> {
    map: &'a Shared<'a>,
    /// First element.
    at: usize,
    /// Elements from one pixel to the next.
    step: usize,
    channels: usize,
    pixels: usize,
}

impl Row<'_> {
    #[inline(always)]
    fn write(&self, pixel: usize, values: &[f32; LANES]) {
        // SAFETY: only one task has these channels of this row, and it writes a pixel at a time.
        let y = unsafe { self.map.piece(self.at + pixel * self.step, self.channels) };
        match y.first_chunk_mut() {
            Some(y) => *y = *values,
            None => y.copy_from_slice(&values[..self.channels]),
        }
    }
}

simd! {
    /// Copies channels of the image `x` from `channel` on, and rows of the padded map from `first`
    /// on, to a panel. Channels beyond the last are zero.
    fn pack<FMA>(s: &Padded, x: &[f32], channel: usize, first: usize, panel: &mut [f32]) {
        let _ = FMA;
        let count = LANES.min(s.c - channel);
        for (row, panel) in panel.chunks_exact_mut(s.columns * LANES).enumerate() {
            let y = match (first + row).checked_sub(s.pad) {
                Some(y) if y < s.h => y,
                _ => {
                    panel.fill(0.0);
                    continue;
                }
            };
            let (panel, _) = panel.as_chunks_mut::<LANES>();
            let (before, panel) = panel.split_at_mut(s.pad.min(s.columns));
            before.fill([0.0; LANES]);
            let used = s.w.min(panel.len());
            let (map, behind) = panel.split_at_mut(used);
            behind.fill([0.0; LANES]);
            for (to, x) in map.iter_mut().zip(x[y * s.w * s.c..].chunks_exact(s.c)) {
                match x[channel..].first_chunk::<LANES>() {
                    Some(x) => *to = *x,
                    None => {
                        *to = [0.0; LANES];
                        to[..count].copy_from_slice(&x[channel..]);
                    }
                }
            }
        }
    }

    /// Writes a row of results, pixel by pixel; `x` are the padded rows from its first on.
    fn convolve_row<FMA>(
        k: usize, columns: usize, x: &[f32], weight: &[f32], bias: &[f32; LANES], y: &Row<'_>,
    ) {
        let (x, _) = x.as_chunks::<LANES>();
        let (weight, _) = weight.as_chunks::<LANES>();
        for first in (0..y.pixels).step_by(SUMS) {
            let mut sums = [*bias; SUMS];
            for (ky, weight) in weight.chunks_exact(k).enumerate() {
                let x = &x[ky * columns + first..][..k + SUMS - 1];
                for (x, weight) in x.windows(SUMS).zip(weight) {
                    for i in 0..SUMS {
                        for lane in 0..LANES {
                            sums[i][lane] = madd::<FMA>(x[i][lane], weight[lane], sums[i][lane]);
                        }
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate().take(y.pixels - first) {
                y.write(first + i, sums);
            }
        }
    }

    /// Adds the products of a row of `dy` with the padded rows `x` to the gradient of the kernels.
    fn products_of_row<FMA>(k: usize, columns: usize, x: &[f32], dy: &[f32], sums: &mut [f32]) {
        let (x, _) = x.as_chunks::<LANES>();
        let (dy, _) = dy.as_chunks::<LANES>();
        let (sums, _) = sums.as_chunks_mut::<LANES>();
        let (sums, _) = sums.as_chunks_mut::<SUMS>();
        let groups = k.div_ceil(SUMS);
        for (at, sums) in sums.iter_mut().enumerate() {
            let x = &x[at / groups * columns + at % groups * SUMS..];
            let mut row = [[0.0; LANES]; SUMS];
            for (x, dy) in x.windows(SUMS).zip(dy) {
                for i in 0..SUMS {
                    for lane in 0..LANES {
                        row[i][lane] = madd::<FMA>(x[i][lane], dy[lane], row[i][lane]);
                    }
                }
            }
            for (sum, row) in sums.iter_mut().zip(&row) {
                for lane in 0..LANES {
                    sum[lane] += row[lane];
                }
            }
        }
    }
}
