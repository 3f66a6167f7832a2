//! Convolution in f32 as products of unfolded blocks, or as the linear layer that it equals.

use super::unfold::Unfold;
use super::{Backward, Conv2d, Forward, ParameterGradients};
use crate::Write;
use crate::call::{Call, Host};
use crate::cpu::scratch;
use crate::dry_run::Cost;
use crate::ops::add::add_column_sums;
use crate::ops::linear;
use crate::ops::matmul::{MatMul, multiply};

/// Approximate elements per unfolded block; a block has at least `MIN_ROWS` rows.
const BLOCK: usize = 1 << 20;
const MIN_ROWS: usize = 128;

/// Rows per unfolded block, for `places` rows of `width` elements.
fn block_rows(places: usize, width: usize) -> usize {
    (BLOCK / width.max(1)).max(MIN_ROWS).min(places)
}

/// Cost of each of the three passes; the scratch memory is exact or slightly too low.
pub fn cost(s: &Conv2d) -> Cost {
    let width = s.kh * s.kw * s.ci.max(s.co);
    let (ho, wo) = s.output().unwrap_or((0, 0));
    Cost {
        call: block_rows(s.b * s.h * s.w, width) * width,
        ..Cost::products(s.b * ho * wo * s.co * s.kh * s.kw * s.ci)
    }
}

/// Calls `f` with the first place and the unfolded rows of each block, in order. Block sizes depend
/// only on the sizes of the convolution, so sums over blocks have a fixed order.
fn blocks(unfold: &Unfold, images: usize, map: &[f32], mut f: impl FnMut(usize, &[f32])) {
    let (width, places) = (unfold.width(), unfold.len(images));
    let rows = block_rows(places, width);
    scratch::with(rows * width, |block: &mut [f32]| {
        for first in (0..places).step_by(rows.max(1)) {
            let block = &mut block[..rows.min(places - first) * width];
            unfold.rows(map, first, block);
            f(first, block);
        }
    });
}

/// Weight `[co, ci, kh, kw]` reordered to `[kh, kw, ci, co]`, for the backward pass to `[kh, kw,
/// co, ci]`.
fn by_taps(s: &Conv2d, weight: &[f32], backward: bool) -> Vec<f32> {
    let taps = s.kh * s.kw;
    let mut out = vec![0.0; weight.len()];
    for (oi, kernel) in weight.chunks_exact(taps).enumerate() {
        let (o, i) = (oi / s.ci, oi % s.ci);
        let at = if backward { oi } else { i * s.co + o };
        for (tap, v) in kernel.iter().enumerate() {
            out[tap * s.co * s.ci + at] = *v;
        }
    }
    out
}

/// `y = unfold(x) weight + bias`.
pub fn forward(s: &Conv2d, Forward { x, weight, bias, y }: Forward<'_, Host, f32>) {
    if let Some(s) = s.pointwise() {
        linear::Forward::<Host, f32>::fast(&s, linear::Forward { x, weight, bias, y });
        return;
    }
    let weight = by_taps(s, weight, false);
    let unfold = Unfold::forward(s);
    blocks(&unfold, s.b, x, |first, block| {
        let rows = block.len() / unfold.width().max(1);
        let y = &mut y[first * s.co..][..rows * s.co];
        let write = match bias {
            Some(bias) if s.co > 0 => {
                y.chunks_exact_mut(s.co).for_each(|row| row.copy_from_slice(bias));
                Write::Add
            }
            _ => Write::Over,
        };
        multiply(&MatMul::new(rows, s.co, unfold.width()), 1.0, block, &weight, write, y);
    });
}

/// `dx = unfold(dy) weight` with reversed taps.
pub fn backward(s: &Conv2d, Backward { weight, dy, dx }: Backward<'_, Host, f32>) {
    if let Some(s) = s.pointwise() {
        linear::Backward::<Host, f32>::fast(&s, linear::Backward { weight, dy, dx });
        return;
    }
    let weight = by_taps(s, weight, true);
    let unfold = Unfold::backward(s);
    blocks(&unfold, s.b, dy, |first, block| {
        let rows = block.len() / unfold.width().max(1);
        let dx = &mut dx[first * s.ci..][..rows * s.ci];
        let product = MatMul::new(rows, s.ci, unfold.width());
        multiply(&product, 1.0, block, &weight, Write::Over, dx);
    });
}

pub fn parameters(s: &Conv2d, c: ParameterGradients<'_, Host, f32>) {
    let ParameterGradients { x, dy, dweight: dw, dbias } = c;
    if let (Some(x), Some(dw)) = (x, dw) {
        match s.pointwise() {
            Some(s) => multiply(&s.product_of_dweight(), 1.0, dy, x, Write::Add, dw),
            None => dweight(s, x, dy, dw),
        }
    }
    if let Some(dbias) = dbias {
        add_column_sums(s.co, dy, dbias);
    }
}

/// `dweight += dy^T unfold(x)`.
fn dweight(s: &Conv2d, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    let unfold = Unfold::forward(s);
    let (width, taps) = (unfold.width(), s.kh * s.kw);
    // [co, kh, kw, ci]
    let mut sum = vec![0.0; dweight.len()];
    blocks(&unfold, s.b, x, |first, block| {
        let rows = block.len() / width.max(1);
        let dy = &dy[first * s.co..][..rows * s.co];
        let product = MatMul::new(s.co, width, rows).trans_a();
        multiply(&product, 1.0, dy, block, Write::Add, &mut sum);
    });
    for (oi, kernel) in dweight.chunks_exact_mut(taps).enumerate() {
        let (o, i) = (oi / s.ci, oi % s.ci);
        for (tap, d) in kernel.iter_mut().enumerate() {
            *d += sum[(o * taps + tap) * s.ci + i];
        }
    }
}
