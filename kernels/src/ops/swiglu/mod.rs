//! Gate of a SwiGLU layer.
//!
//! ```text
//! y[j] = silu(x[j]) x[h + j],   silu(u) = u sigmoid(u)        for j < h, per row
//! dx[j]     = dy[j] x[h + j] sigmoid(u) (1 + u (1 - sigmoid(u)))      with u = x[j]
//! dx[h + j] = dy[j] silu(u)
//! ```
//! Shapes: `x`, `dx` `[n, 2h]`, `y`, `dy` `[n, h]`. Saved: `x`. It is memory-bound: `3 n h`
//! elements forward. Source: spec backbones §2.4 (DINOv2-g: the first half of w12 is the gate).
//!
//! On a GPU: `[4100, 2 x 4096]` bf16 (DINOv2-g; four images of 518 px have more) moves 101 MB
//! forward and 168 MB backward. The floor on an H200 (4.3 TB/s) is 23 and 39 us, at about 12
//! and 20 FLOP per element of `y`. A lane handles 8 columns of both halves of a row, a block 32
//! rows (`cuda/vectors.cuh`).

mod checks;
mod cpu;
mod gpu;
mod reference;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Sizes of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swiglu {
    /// Rows.
    pub n: usize,
    /// Width of the output, half of the input width.
    pub h: usize,
}

impl Operation for Swiglu {
    const NAME: &'static str = "swiglu";

    fn is_empty(&self) -> bool {
        self.h == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Both halves, `[n, 2h]`.
    pub x: M::In<'a, T>,
    /// Result, `[n, h]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Swiglu;

    fn list(&mut self, s: &Swiglu, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, 2 * s.n * s.h);
        w.writes("y", &mut self.y, s.n * s.h);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Input of the forward pass, `[n, 2h]`.
    pub x: M::In<'a, T>,
    /// Incoming gradient, `[n, h]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, 2h]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Swiglu;

    fn list(&mut self, s: &Swiglu, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, 2 * s.n * s.h);
        w.reads("dy", &mut self.dy, s.n * s.h);
        w.writes("dx", &mut self.dx, 2 * s.n * s.h);
    }
}
