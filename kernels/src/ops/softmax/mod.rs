//! Softmax over the last axis.
//!
//! ```text
//! y[j]  = exp(x[j] - max x) / sum_j exp(x[j] - max x)        per row
//! dx[j] = y[j] (dy[j] - sum_j y[j] dy[j])
//! ```
//! Shapes: all `[n, c]`. Saved for the backward pass: `y`. It is used for class probabilities;
//! attention has its own softmax, which never stores a whole row.
//! Cost: one read and one write forward, two reads and one write backward, if a row stays in the
//! cache between its three passes (two backward).
//!
//! On a GPU: `[400, 20]` logits are 32 KB, so the launch dominates. `[4096, 4096]` in bf16 moves 67
//! MB forward and 101 MB backward; the floor on an H200 (4.3 TB/s) is 16 and 23 us. A warp
//! handles one row and passes over it three times, the second and third time in the L1 cache.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of a softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// Rows.
    pub n: usize,
    /// Elements per row.
    pub c: usize,
}

impl Operation for Softmax {
    const NAME: &'static str = "softmax";

    fn is_empty(&self) -> bool {
        self.c == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Logits, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Result, `[n, c]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Softmax;

    fn list(&mut self, s: &Softmax, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.writes("y", &mut self.y, s.n * s.c);
    }
}

/// Call that writes `dx`, from the result `y` of the forward pass.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Result of the forward pass, `[n, c]`.
    pub y: M::In<'a, T>,
    /// Incoming gradient, `[n, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, c]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Softmax;

    fn list(&mut self, s: &Softmax, w: &mut impl Walk<'a, M>) {
        w.reads("y", &mut self.y, s.n * s.c);
        w.reads("dy", &mut self.dy, s.n * s.c);
        w.writes("dx", &mut self.dx, s.n * s.c);
    }
}
