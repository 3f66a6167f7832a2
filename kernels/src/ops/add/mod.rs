//! Addition with the second operand repeated over the leading axis, scaling by a constant, sums
//! over the leading axis.
//!
//! ```text
//! y[i, j] = a[i, j] + b[j]                       forward
//! da = dy            db[j] (+)= sum_i dy[i, j]   backward
//! y[i] = factor * x[i]                           scale, only on a device
//! ```
//! Two tensors of the same shape are the case `n = 1`. `da` equals `dy`, so no function computes
//! it: the caller passes `dy` on.
//!
//! Shapes: `a`, `y`, `dy` are `[n, inner]`, `b`, `db` `[inner]`. Nothing is saved.
//! Cost: one FLOP, two reads and one write per element, so it is memory-bound.
//!
//! The sum over the leading axis is split into parts by size only, and the partial sums are added
//! from the first to the last. The result is the same for any number of threads. Partial sums also
//! keep the rounding error of a long column close to that of its longest part.
//!
//! On a GPU: adding a position table `[1025, 1024]` to four images in bf16 moves 19 MB; the lower
//! bound on an H200 (4.3 TB/s) is 4 us. A lane loads 8 columns of `b` and keeps them in registers
//! for all rows of its warp (`cuda/vectors.cuh`). Scaling is also the cast between f32 and bf16.

pub(crate) mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use cpu::add_column_sums;
pub use gpu::cast_gpu;
pub(crate) use gpu::scale_gpu;

use crate::Write;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Add {
    /// Number of times that `b` is repeated.
    pub n: usize,
    /// Elements of `b`.
    pub inner: usize,
}

impl Operation for Add {
    const NAME: &'static str = "add";

    fn is_empty(&self) -> bool {
        self.inner == 0
    }
}

/// Call that writes `y = a + b` for two activations.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// First summand, `[n, inner]`.
    pub a: M::In<'a, T>,
    /// Second summand, `[inner]`.
    pub b: M::In<'a, T>,
    /// Result, `[n, inner]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Add;

    fn list(&mut self, s: &Add, w: &mut impl Walk<'a, M>) {
        w.reads("a", &mut self.a, s.n * s.inner);
        w.reads("b", &mut self.b, s.inner);
        w.writes("y", &mut self.y, s.n * s.inner);
    }
}

/// Call that writes `y = a + b` for a parameter `b`.
#[derive(Default)]
pub struct ParameterForward<'a, M: Memory, T: Element> {
    /// Activation, `[n, inner]`.
    pub a: M::In<'a, T>,
    /// Parameter, `[inner]`.
    pub b: M::In<'a, M::Sum<T>>,
    /// Result, `[n, inner]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for ParameterForward<'a, M, T> {
    type Op = Add;

    fn list(&mut self, s: &Add, w: &mut impl Walk<'a, M>) {
        w.reads("a", &mut self.a, s.n * s.inner);
        w.reads("b", &mut self.b, s.inner);
        w.writes("y", &mut self.y, s.n * s.inner);
    }
}

/// Call that writes the gradient of `b`, the sum of `dy` over its leading axis, or adds to it.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Incoming gradient, `[n, inner]`.
    pub dy: M::In<'a, T>,
    /// Treatment of the old contents of `db`.
    pub write: Write,
    /// Gradient of `b`, `[inner]`.
    pub db: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Add;

    fn list(&mut self, s: &Add, w: &mut impl Walk<'a, M>) {
        w.reads("dy", &mut self.dy, s.n * s.inner);
        w.chooses(&mut self.write);
        w.stores("db", &mut self.db, s.inner, self.write);
    }
}
