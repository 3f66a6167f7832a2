//! Residual connection with an optional layer scale.
//!
//! ```text
//! y[n, c] = x[n, c] + gamma[c] * r[n, c]          gamma left out: 1
//! ```
//! Backward:
//! ```text
//! dx = dy        dr = dy * gamma        dgamma[c] += sum_n dy[n, c] r[n, c]
//! ```
//! `dx` equals `dy`, so no function computes it: the caller passes `dy` on. Without `gamma` the
//! same holds for `dr`.
//!
//! Shapes: `x`, `r`, `y`, `dy`, `dr` are `[n, c]`; `gamma`, `dgamma` `[c]`. Saved for the backward
//! pass: `r`, only if `gamma` is trained.
//! Cost: two FLOP per element forward, one for `dr`, two for `dgamma` (a bias adds one to the first
//! and the last); two reads and one write of `[n, c]`, so it is memory-bound.
//!
//! On a GPU the bias of the previous product can be fused, `y = x + gamma (r + bias)`, which saves
//! a pass. `[4100, 1024]` bf16 moves 25 MB forward and 17 MB each for `dr` and `dgamma`; the lower
//! bound on an H200 (4.3 TB/s) is 6 and 4 us. A lane handles 8 columns, so `gamma` and `bias` are
//! loaded once for the four rows of a warp (`cuda/vectors.cuh`). `dgamma` takes two passes in a
//! fixed order (`cuda/columns.cuh`).
//!
//! Source: spec backbones §2.2 (the LayerScale of DINOv2).

mod checks;
mod cpu;
mod gpu;
mod reference;

use crate::Write;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of a residual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residual {
    /// Rows.
    pub n: usize,
    /// Channels.
    pub c: usize,
}

impl Operation for Residual {
    const NAME: &'static str = "residual";

    fn is_empty(&self) -> bool {
        self.c == 0
    }
}

/// Call that writes `y`. The bias of the previous product is fused: `y = x + gamma (r + bias)`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Trunk, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Branch, `[n, c]`.
    pub r: M::In<'a, T>,
    /// Bias of the branch, `[c]`; left out: 0.
    pub bias: Option<M::In<'a, M::Sum<T>>>,
    /// Layer scale, `[c]`; left out: 1.
    pub gamma: Option<M::In<'a, M::Sum<T>>>,
    /// Result, `[n, c]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Residual;

    fn list(&mut self, s: &Residual, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.reads("r", &mut self.r, s.n * s.c);
        w.reads_if("bias", &mut self.bias, s.c);
        w.reads_if("gamma", &mut self.gamma, s.c);
        w.writes("y", &mut self.y, s.n * s.c);
    }
}

/// Call that writes `dr`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Layer scale, `[c]`; left out: 1.
    pub gamma: Option<M::In<'a, M::Sum<T>>>,
    /// Incoming gradient, `[n, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `r`, `[n, c]`.
    pub dr: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Residual;

    fn list(&mut self, s: &Residual, w: &mut impl Walk<'a, M>) {
        w.reads_if("gamma", &mut self.gamma, s.c);
        w.reads("dy", &mut self.dy, s.n * s.c);
        w.writes("dr", &mut self.dr, s.n * s.c);
    }
}

/// Call that adds to `dgamma`. The gradient of the bias is the sum of `dr` over the rows
/// ([`crate::ops::reduce::column_sums_gpu`]).
#[derive(Default)]
pub struct GammaGradient<'a, M: Memory, T: Element> {
    /// Branch, `[n, c]`.
    pub r: M::In<'a, T>,
    /// Bias of the branch, `[c]`; left out: 0.
    pub bias: Option<M::In<'a, M::Sum<T>>>,
    /// Incoming gradient, `[n, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `gamma`, `[c]`.
    pub dgamma: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for GammaGradient<'a, M, T> {
    type Op = Residual;

    fn list(&mut self, s: &Residual, w: &mut impl Walk<'a, M>) {
        w.reads("r", &mut self.r, s.n * s.c);
        w.reads_if("bias", &mut self.bias, s.c);
        w.reads("dy", &mut self.dy, s.n * s.c);
        w.stores("dgamma", &mut self.dgamma, s.c, Write::Add);
    }
}
