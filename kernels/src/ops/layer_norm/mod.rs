//! Layer norm over the last axis.
//!
//! ```text
//! mean = sum(x) / c        rstd = 1 / sqrt(sum((x - mean)^2) / c + eps)       per row
//! y    = (x - mean) * rstd * weight + bias
//! ```
//! Backward, with `xhat = (x - mean) * rstd` and `g = dy * weight`:
//! ```text
//! dx      = rstd * (g - mean_c(g) - xhat * mean_c(g * xhat))
//! dweight += sum_rows(dy * xhat)        dbias += sum_rows(dy)
//! ```
//! The variance is computed around the mean. The mean square minus the squared mean is not used
//! because it cancels for rows with a large mean.
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[n, c]`; `weight`, `bias` and their gradients `[c]`; `mean`,
//! `rstd` `[n]`. Saved for the backward pass: `x` (which the caller keeps anyway) and `8 n` bytes
//! of statistics. Cost: about 8 n c FLOP forward; one read and one write of `[n, c]`, so it is
//! memory-bound. Source: spec backbones §2.2 (eps 1e-6 in DINOv2) and mask2former, conventions (eps
//! 1e-5).
//!
//! On a GPU: statistics, weight, bias and their gradients are f32. The tokens of four 512 px images
//! of ViT-L, `[4100, 1024]` bf16, move 17 MB forward (34 MFLOP) and 25 MB for `dx`; the floor
//! on an H200 (4.3 TB/s) is 4 and 6 us. One warp handles one row, four rows per block. A row of
//! 1024 is four 16-byte accesses per lane, kept in registers between the passes over it, and warps
//! need no synchronisation. `dweight` and `dbias` take two passes over row splits, in an order
//! set by the sizes (`cuda/columns.cuh`).

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result, Write};

/// Sizes of a layer norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// Rows.
    pub n: usize,
    /// Channels, the normalised axis.
    pub c: usize,
    /// Term added to the variance.
    pub eps: f64,
}

impl Operation for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn check(&self) -> Result<()> {
        if self.c == 0 {
            let what = "rows of 0 channels have no mean".into();
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }
}

/// Layer norm with known statistics: `(z - mean) rstd weight + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a, T> {
    /// z, `[n, k]`.
    pub z: &'a [T],
    /// Mean of each row, `[n]`.
    pub mean: &'a [T],
    /// Reciprocal standard deviation of each row, `[n]`.
    pub rstd: &'a [T],
    /// Weight of the norm, `[k]`.
    pub weight: &'a [T],
    /// Bias of the norm, `[k]`.
    pub bias: &'a [T],
}

/// Call that writes `y`, `mean` and `rstd`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Rows, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Weight, `[c]`.
    pub weight: M::In<'a, M::Sum<T>>,
    /// Bias, `[c]`.
    pub bias: M::In<'a, M::Sum<T>>,
    /// Result, `[n, c]`.
    pub y: M::Out<'a, T>,
    /// Mean of each row, `[n]`.
    pub mean: M::Out<'a, M::Sum<T>>,
    /// Reciprocal standard deviation of each row, `[n]`.
    pub rstd: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = LayerNorm;

    fn list(&mut self, s: &LayerNorm, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.reads("weight", &mut self.weight, s.c);
        w.reads("bias", &mut self.bias, s.c);
        w.writes("y", &mut self.y, s.n * s.c);
        w.writes("mean", &mut self.mean, s.n);
        w.writes("rstd", &mut self.rstd, s.n);
    }
}

/// Call that writes only `mean` and `rstd`, for a product that normalises its operand itself.
#[derive(Default)]
pub struct Stats<'a, M: Memory, T: Element> {
    /// Rows, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Mean of each row, `[n]`.
    pub mean: M::Out<'a, M::Sum<T>>,
    /// Reciprocal standard deviation of each row, `[n]`.
    pub rstd: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Stats<'a, M, T> {
    type Op = LayerNorm;

    fn list(&mut self, s: &LayerNorm, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.writes("mean", &mut self.mean, s.n);
        w.writes("rstd", &mut self.rstd, s.n);
    }
}

/// Call that writes `dx` or adds to it, and adds to `dweight` and `dbias`. Each is optional.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Input of the forward pass, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Weight, `[c]`.
    pub weight: M::In<'a, M::Sum<T>>,
    /// Mean of each row, `[n]`.
    pub mean: M::In<'a, M::Sum<T>>,
    /// Reciprocal standard deviation of each row, `[n]`.
    pub rstd: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[n, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, c]`.
    pub dx: Option<M::Out<'a, T>>,
    /// Treatment of the old contents of `dx`.
    pub write: Write,
    /// Gradient of the weight, `[c]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the bias, `[c]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = LayerNorm;

    fn list(&mut self, s: &LayerNorm, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.reads("weight", &mut self.weight, s.c);
        w.reads("mean", &mut self.mean, s.n);
        w.reads("rstd", &mut self.rstd, s.n);
        w.reads("dy", &mut self.dy, s.n * s.c);
        w.chooses(&mut self.write);
        w.stores_if("dx", &mut self.dx, s.n * s.c, self.write);
        w.stores_if("dweight", &mut self.dweight, s.c, Write::Add);
        w.stores_if("dbias", &mut self.dbias, s.c, Write::Add);
    }
}
