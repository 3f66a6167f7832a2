//! Change of the row width: zeros appended, or the end cut off.
//!
//! ```text
//! y[r, j] = s[r] x[r, j]   for j < from, 0 beyond         s[r] = factor if r mod period < scaled
//! dx[r, j] = s[r] dy[r, j] for j < to, 0 beyond                  1      otherwise
//! ```
//! The backward pass is the same operation from `to` to `from`. GPU kernels that support only
//! certain widths use it to handle all smaller widths: zeros add nothing to a product. A factor
//! such as `1 / sqrt(d)` that a kernel computes from the width is corrected by `factor` on one of
//! the two operands. Networks of published sizes never need it.
//!
//! Shapes: `x` `[n, from]`, `y` `[n, to]`. Nothing is saved. Cost: one read of `x`, one write of
//! `y`.
//!
//! On a GPU: one thread per element of `y`. Widening heads of 16 channels to 32, for 4 images of
//! 1024 tokens with 3 x 24 heads in bf16, reads 9 MB and writes 19 MB; the floor on an H200
//! (4.3 TB/s) is 7 us.

mod checks;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes, and the rows that are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowWidth {
    /// Rows.
    pub n: usize,
    /// Columns of `x`.
    pub from: usize,
    /// Columns of `y`.
    pub to: usize,
    /// Number of rows after which the choice of scaled rows repeats.
    pub period: usize,
    /// Number of leading rows of each period that are scaled.
    pub scaled: usize,
    /// Scale of these rows.
    pub factor: f32,
}

impl RowWidth {
    /// Change of width without scaling.
    pub fn new(n: usize, from: usize, to: usize) -> RowWidth {
        RowWidth { n, from, to, period: 1, scaled: 0, factor: 1.0 }
    }

    /// Change of width that multiplies the first `scaled` of every `period` rows by `factor`.
    #[must_use]
    pub fn scaled(self, scaled: usize, period: usize, factor: f32) -> RowWidth {
        RowWidth { period, scaled, factor, ..self }
    }

    /// Operation that maps the gradient of `y` to that of `x`.
    #[must_use]
    pub fn backward(self) -> RowWidth {
        RowWidth { from: self.to, to: self.from, ..self }
    }
}

impl Operation for RowWidth {
    const NAME: &'static str = "row_width";

    fn check(&self) -> Result<()> {
        if self.period == 0 {
            let what = "a period of no rows".into();
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.to == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Resize<'a, M: Memory, T: Element> {
    /// Rows, `[n, from]`.
    pub x: M::In<'a, T>,
    /// Result, `[n, to]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Resize<'a, M, T> {
    type Op = RowWidth;

    fn list(&mut self, s: &RowWidth, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.from);
        w.writes("y", &mut self.y, s.n * s.to);
    }
}
