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

mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{Real, Result, check_count, dry_run, f32s, f32s_mut};

const OP: &str = "relative_position";

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

impl RelativePosition {
    /// Writes `rel` from the queries of `qkv` and the tables of rows and columns.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn forward<T: Real>(&self, qkv: &[T], tables: [&[T]; 2], rel: &mut [T]) -> Result<()> {
        self.check(qkv.len(), tables.map(<[T]>::len), rel.len())?;
        if dry_run::skip_with(OP, || cpu::cost(self, 1)) || rel.is_empty() {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(qkv), tables.map(f32s), f32s_mut(rel));
        } else {
            reference::forward(self, qkv, tables, rel);
        }
        Ok(())
    }

    /// Adds to the queries' part of `dqkv` and to the gradients of the tables; each is optional.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn backward<T: Real>(
        &self,
        qkv: &[T],
        tables: [&[T]; 2],
        drel: &[T],
        dqkv: Option<&mut [T]>,
        dtables: [Option<&mut [T]>; 2],
    ) -> Result<()> {
        self.check(qkv.len(), tables.map(<[T]>::len), drel.len())?;
        check_count(OP, "dqkv", dqkv.as_ref().map_or(qkv.len(), |d| d.len()), qkv.len())?;
        for (table, d) in tables.iter().zip(&dtables) {
            let found = d.as_ref().map_or(table.len(), |d| d.len());
            check_count(OP, "gradient of a table", found, table.len())?;
        }
        if dry_run::skip_with(OP, || cpu::cost(self, 2)) || drel.is_empty() {
            return Ok(());
        }
        if T::IS_F32 {
            let (dqkv, dtables) = (dqkv.map(f32s_mut), dtables.map(|d| d.map(f32s_mut)));
            cpu::backward(self, f32s(qkv), tables.map(f32s), f32s(drel), dqkv, dtables);
        } else {
            reference::backward(self, qkv, tables, drel, dqkv, dtables);
        }
        Ok(())
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

    fn check(&self, qkv: usize, tables: [usize; 2], rel: usize) -> Result<()> {
        let tokens = self.b * self.h * self.w;
        check_count(OP, "qkv", qkv, tokens * 3 * self.heads * self.d)?;
        let rows = |n: usize| (2 * n).saturating_sub(1) * self.d;
        check_count(OP, "table of rows", tables[0], rows(self.h))?;
        check_count(OP, "table of columns", tables[1], rows(self.w))?;
        check_count(OP, "rel", rel, tokens * self.heads * self.width())
    }
}
