//! Convolution as products of unfolded blocks.

use super::Conv2d;
use super::unfold::Unfold;
use crate::cpu::scratch;
use crate::dry_run::Cost;
use crate::ops::matmul::MatMul;
use crate::{Real, Result, Write};

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
fn blocks<T: Real>(
    unfold: &Unfold,
    images: usize,
    map: &[T],
    mut f: impl FnMut(usize, &[T]) -> Result<()>,
) -> Result<()> {
    let (width, places) = (unfold.width(), unfold.len(images));
    let rows = block_rows(places, width);
    scratch::with(rows * width, |block: &mut [T]| {
        for first in (0..places).step_by(rows.max(1)) {
            let block = &mut block[..rows.min(places - first) * width];
            unfold.rows(map, first, block);
            f(first, block)?;
        }
        Ok(())
    })
}

/// Weight `[co, ci, kh, kw]` reordered to `[kh, kw, ci, co]`, for the backward pass to `[kh, kw,
/// co, ci]`.
fn by_taps<T: Real>(s: &Conv2d, weight: &[T], backward: bool) -> Vec<T> {
    let taps = s.kh * s.kw;
    let mut out = vec![T::ZERO; weight.len()];
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
pub fn forward<T: Real>(
    s: &Conv2d,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    let weight = by_taps(s, weight, false);
    let unfold = Unfold::forward(s)?;
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
        MatMul::new(rows, s.co, unfold.width()).run(1.0, block, &weight, write, y)
    })
}

/// `dx = unfold(dy) weight` with reversed taps.
pub fn dx<T: Real>(s: &Conv2d, weight: &[T], dy: &[T], dx: &mut [T]) -> Result<()> {
    let weight = by_taps(s, weight, true);
    let unfold = Unfold::backward(s)?;
    blocks(&unfold, s.b, dy, |first, block| {
        let rows = block.len() / unfold.width().max(1);
        let dx = &mut dx[first * s.ci..][..rows * s.ci];
        MatMul::new(rows, s.ci, unfold.width()).run(1.0, block, &weight, Write::Over, dx)
    })
}

/// `dweight += dy^T unfold(x)`.
pub fn dweight<T: Real>(s: &Conv2d, x: &[T], dy: &[T], dweight: &mut [T]) -> Result<()> {
    let unfold = Unfold::forward(s)?;
    let (width, taps) = (unfold.width(), s.kh * s.kw);
    // [co, kh, kw, ci]
    let mut sum = vec![T::ZERO; dweight.len()];
    blocks(&unfold, s.b, x, |first, block| {
        let rows = block.len() / width.max(1);
        let dy = &dy[first * s.co..][..rows * s.co];
        MatMul::new(s.co, width, rows).trans_a().run(1.0, dy, block, Write::Add, &mut sum)
    })?;
    for (oi, kernel) in dweight.chunks_exact_mut(taps).enumerate() {
        let (o, i) = (oi / s.ci, oi % s.ci);
        for (tap, d) in kernel.iter_mut().enumerate() {
            *d += sum[(o * taps + tap) * s.ci + i];
        }
    }
    Ok(())
}
