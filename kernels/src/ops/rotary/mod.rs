//! Rotary position embedding of queries and keys, in place on packed `qkv`.
//!
//! ```text
//! y[2 k]     = x[2 k] cos(a) - x[2 k + 1] sin(a)          a = angle[token, k],  k < d / 2
//! y[2 k + 1] = x[2 k + 1] cos(a) + x[2 k] sin(a)
//! ```
//! Here neighbouring channels form a pair; with [`Pairs::Halves`] it is channel `k` and
//! `k + d / 2`. The first `skip` tokens, the class token and registers, are not changed, and neither
//! are tokens behind the `cells` patches, nor the values. Backward: the transpose of a rotation is
//! its inverse, the rotation by `-a`; nothing is saved.
//!
//! Shapes: `qkv` `[b, t, 3, heads, d]` with an even `d`; `table` `[cells, d / 2, 2]` of cosine and
//! sine, shared by images and heads ([`table`], [`centred_table`]; f32 on a device).
//! Cost: `2 b cells heads d` elements read and written, three FLOP each.
//!
//! On a GPU: four images of ViT-L at 512 px in bf16 move 33.6 MB; the floor on an H200 (4.3
//! TB/s) is 7.8 us. A block handles vectors of 8 channels of one token and loops over the images,
//! so that cosines and sines are read once. docs/kernels.md explains why this is a separate
//! kernel and not part of the attention kernel.
//!
//! Source: spec backbones §4.4 (EVA02), dinov3 §3.

mod checks;
mod gpu;
mod reference;
mod tables;
#[cfg(test)]
mod tests;

pub use tables::{centred_table, periods};

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result, Write};

/// Base of the frequencies.
const THETA: f64 = 10_000.0;

/// Sizes and direction of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Images.
    pub b: usize,
    /// Tokens.
    pub t: usize,
    /// Heads.
    pub heads: usize,
    /// Channels per head, even.
    pub d: usize,
    /// Leading tokens that are not rotated.
    pub skip: usize,
    /// Tokens behind them that are rotated.
    pub cells: usize,
    /// Channels that are rotated with each other.
    pub pairs: Pairs,
    /// Direction.
    pub turn: Turn,
}

/// Channels of a head that form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Channels `2 k` and `2 k + 1` (EVA02).
    Neighbours,
    /// Channels `k` and `k + d / 2` (DINOv3).
    Halves,
}

/// Direction of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Rotation by the angles: the forward pass.
    Forward,
    /// Rotation by the negative angles: the inverse and the backward pass.
    Back,
}

impl Operation for Rotary {
    const NAME: &'static str = "rotary";

    fn check(&self) -> Result<()> {
        let Rotary { t, d, skip, cells, .. } = *self;
        let what = if !d.is_multiple_of(2) {
            format!("heads of {d} channels do not divide into pairs")
        } else if skip + cells > t {
            format!("cannot rotate {cells} tokens behind {skip} of {t}")
        } else {
            return Ok(());
        };
        Err(KernelError::Size { op: Self::NAME, what })
    }

    fn is_empty(&self) -> bool {
        self.heads * self.d == 0
    }
}

/// Call that rotates the queries and keys of `qkv` in place.
#[derive(Default)]
pub struct Rotate<'a, M: Memory, T: Element> {
    /// Queries, keys and values, `[b, t, 3, heads, d]`.
    pub qkv: M::Out<'a, T>,
    /// Cosine and sine of each pair, `[cells, d / 2, 2]`.
    pub table: M::In<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Rotate<'a, M, T> {
    type Op = Rotary;

    fn list(&mut self, s: &Rotary, w: &mut impl Walk<'a, M>) {
        w.stores("qkv", &mut self.qkv, s.b * s.t * 3 * s.heads * s.d, Write::Add);
        w.reads("table", &mut self.table, s.cells * s.d);
    }
}

/// Cosines and sines `[h w, d / 2, 2]` for the cells of a grid `[h, w]`, row by row.
///
/// The angles of the first half of the pairs depend on the row, those of the second half on the
/// column. Row `y` counts as `y side / h`, and columns likewise, so that any grid spans the same
/// range as `side` rows in pre-training. The frequencies of a half are `10000^(-2 k / (d / 2))`.
///
/// # Errors
/// `d` is not a multiple of 4.
pub fn table([h, w]: [usize; 2], side: usize, d: usize) -> Result<Vec<f64>> {
    if !d.is_multiple_of(4) {
        let what = format!("heads of {d} channels do not divide into pairs for two axes");
        return Err(KernelError::Size { op: Rotary::NAME, what });
    }
    let half = d / 4;
    let frequency = |k: usize| THETA.powf(-((4 * k) as f64) / d as f64);
    let place = |i: usize, n: usize| i as f64 / n as f64 * side as f64;
    let mut table = Vec::with_capacity(h * w * d);
    for cell in 0..h * w {
        for at in [place(cell / w, h), place(cell % w, w)] {
            for k in 0..half {
                let (sin, cos) = (at * frequency(k)).sin_cos();
                table.extend([cos, sin]);
            }
        }
    }
    Ok(table)
}
