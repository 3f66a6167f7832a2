//! Decomposed relative position: biases that a query adds to the scores of each row and column of
//! keys.
//!
//! ```text
//! rel[i, k]     = q[i] . R[y(i) - k + h - 1]        k < h,  i = (y(i), x(i)) on a grid [h, w]
//! rel[i, h + k] = q[i] . C[x(i) - k + w - 1]        k < w
//! ```
//! `q` is not scaled. [`crate::ops::attention`] adds `rel[i, y] + rel[i, h + x]` to the score of the key
//! `(y, x)`. Backward:
//! ```text
//! dq[i] += sum_k drel[i, k] R[..] + sum_k drel[i, h + k] C[..]
//! dR[m] += sum_i drel[i, y(i) + h - 1 - m] q[i]     dC likewise; sums over images and heads too
//! ```
//! Shapes: `qkv`, `dqkv` packed `[b, h w, 3, heads, d]`, of which only the queries are used; `R`
//! `[2 h - 1, d]`, `C` `[2 w - 1, d]`, shared by heads; `rel`, `drel` `[b, heads, h w, h + w]`. All
//! gradients are added to. Saved for the backward pass: the inputs.
//! Cost: `2 b heads h w (h + w) d` FLOP forward, twice that backward.
//!
//! On a GPU (d = 80), a block handles 64 queries of a head and multiplies them with whole tables on
//! tensor cores. Each query needs half of the `2 (h + w)` rows; computing the other half is cheaper
//! than one product per row of the grid. A global block of SAM-H (1024 tokens) at 512 px with four
//! images needs 1.3 GFLOP, at least 1.7 us. It reads the queries and writes `rel`, 18.9 MB in bf16,
//! at least 4.4 us. Gradients of tables are summed over splits of the queries, and the splits are
//! added in order.
//!
//! Source: spec backbones §4.5 (SAM).

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::Write;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of relative positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelativePosition {
    /// Images, or windows.
    pub b: usize,
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// Rows of the grid.
    pub h: usize,
    /// Columns of the grid.
    pub w: usize,
}

/// One axis of the grid: its number of cells and its position among the biases of a query.
#[derive(Debug, Clone, Copy)]
struct Axis {
    len: usize,
    offset: usize,
    columns: bool,
}

impl Operation for RelativePosition {
    const NAME: &'static str = "relative_position";

    fn is_empty(&self) -> bool {
        self.biases() == 0
    }
}

/// Call that writes `rel` from the queries of `qkv` and the tables of rows and columns.
///
/// On a device, here and in the gradients, heads have 80 channels, and `qkv` and the tables begin
/// at multiples of 16 bytes.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Queries, keys and values, `[b, h w, 3, heads, d]`.
    pub qkv: M::In<'a, T>,
    /// R, `[2 h - 1, d]`.
    pub rows: M::In<'a, T>,
    /// C, `[2 w - 1, d]`.
    pub columns: M::In<'a, T>,
    /// Biases, `[b, heads, h w, h + w]`.
    pub rel: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = RelativePosition;

    fn list(&mut self, s: &RelativePosition, w: &mut impl Walk<'a, M>) {
        w.reads("qkv", &mut self.qkv, s.tokens() * 3 * s.d);
        w.reads("table of rows", &mut self.rows, s.table(s.h));
        w.reads("table of columns", &mut self.columns, s.table(s.w));
        w.writes("rel", &mut self.rel, s.biases());
    }
}

/// Call that adds to the queries' part of `dqkv`.
#[derive(Default)]
pub struct QueryGradient<'a, M: Memory, T: Element> {
    /// R, `[2 h - 1, d]`.
    pub rows: M::In<'a, T>,
    /// C, `[2 w - 1, d]`.
    pub columns: M::In<'a, T>,
    /// Incoming gradient, `[b, heads, h w, h + w]`.
    pub drel: M::In<'a, T>,
    /// Gradient of `qkv`, `[b, h w, 3, heads, d]`.
    pub dqkv: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for QueryGradient<'a, M, T> {
    type Op = RelativePosition;

    fn list(&mut self, s: &RelativePosition, w: &mut impl Walk<'a, M>) {
        w.reads("table of rows", &mut self.rows, s.table(s.h));
        w.reads("table of columns", &mut self.columns, s.table(s.w));
        w.reads("drel", &mut self.drel, s.biases());
        w.stores("dqkv", &mut self.dqkv, s.tokens() * 3 * s.d, Write::Add);
    }
}

/// Call that adds to the gradients of the tables; each is optional.
#[derive(Default)]
pub struct TableGradients<'a, M: Memory, T: Element> {
    /// Queries, keys and values, `[b, h w, 3, heads, d]`.
    pub qkv: M::In<'a, T>,
    /// Incoming gradient, `[b, heads, h w, h + w]`.
    pub drel: M::In<'a, T>,
    /// Gradient of R, `[2 h - 1, d]`.
    pub drows: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of C, `[2 w - 1, d]`.
    pub dcolumns: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for TableGradients<'a, M, T> {
    type Op = RelativePosition;

    fn list(&mut self, s: &RelativePosition, w: &mut impl Walk<'a, M>) {
        w.reads("qkv", &mut self.qkv, s.tokens() * 3 * s.d);
        w.reads("drel", &mut self.drel, s.biases());
        w.stores_if("dtable of rows", &mut self.drows, s.table(s.h), Write::Add);
        w.stores_if("dtable of columns", &mut self.dcolumns, s.table(s.w), Write::Add);
    }
}

impl RelativePosition {
    /// Tokens of all images and heads.
    fn tokens(&self) -> usize {
        self.b * self.heads * self.h * self.w
    }

    /// Elements of `rel`.
    fn biases(&self) -> usize {
        self.tokens() * self.width()
    }

    /// Elements of the table of an axis of `n` cells.
    fn table(&self, n: usize) -> usize {
        (2 * n).saturating_sub(1) * self.d
    }

    /// Biases per query.
    fn width(&self) -> usize {
        self.h + self.w
    }

    fn axes(&self) -> [Axis; 2] {
        let rows = Axis { len: self.h, offset: 0, columns: false };
        [rows, Axis { len: self.w, offset: self.h, columns: true }]
    }

    /// Position of a token on an axis.
    fn place(&self, axis: Axis, token: usize) -> usize {
        if axis.columns { token % self.w } else { token / self.w }
    }

    /// First element of the query with this index in `[b, heads, h w]`.
    fn query(&self, i: usize) -> usize {
        let n = self.h * self.w;
        let (image, head, token) = (i / n / self.heads, i / n % self.heads, i % n);
        ((image * n + token) * 3 * self.heads + head) * self.d
    }
}
