//! Rows of a matrix selected by a table of indices, some of which are padding.
//!
//! ```text
//! y[i]  = x[indices[i]]                       0 where the index is not in 0..n
//! dx[j] = sum over i with indices[i] = j of dy[i]
//! ```
//! The sum runs in the order of the table. Shapes: `x`, `dx` `[n, c]`; `indices` `[r]`; `y`, `dy`
//! `[r, c]`. Only the table is saved. The forward pass only copies: no FLOP.
//!
//! On a GPU: 76 mask embeddings of 256 channels are 78 KB in f32, which takes less time than a
//! launch. In the backward pass every row of `x` searches the table, 400 x 76 comparisons. The
//! table stays on the device, so that launches do not depend on the host. Sums are in f32, rounded
//! once.

mod checks;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of a selection of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherRows {
    /// Rows of `x`.
    pub n: usize,
    /// Rows of `y`.
    pub r: usize,
    /// Columns.
    pub c: usize,
}

impl Operation for GatherRows {
    const NAME: &'static str = "gather_rows";

    fn is_empty(&self) -> bool {
        self.c == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Rows to select from, `[n, c]`.
    pub x: M::In<'a, T>,
    /// Row of `x` for each row of `y`, `[r]`; any other number is padding.
    pub indices: M::In<'a, i32>,
    /// Selected rows, `[r, c]`; zeros for padding.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = GatherRows;

    fn list(&mut self, s: &GatherRows, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.c);
        w.reads("indices", &mut self.indices, s.r);
        w.writes("y", &mut self.y, s.r * s.c);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Table of the forward pass, `[r]`.
    pub indices: M::In<'a, i32>,
    /// Incoming gradient, `[r, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, c]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = GatherRows;

    fn list(&mut self, s: &GatherRows, w: &mut impl Walk<'a, M>) {
        w.reads("indices", &mut self.indices, s.r);
        w.reads("dy", &mut self.dy, s.r * s.c);
        w.writes("dx", &mut self.dx, s.n * s.c);
    }
}
