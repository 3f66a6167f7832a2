//! Pointwise activations.
//!
//! ```text
//! gelu(x)  = x Phi(x)                 Phi(x) = (1 + erf(x / sqrt 2)) / 2
//! gelu'(x) = Phi(x) + x phi(x)        phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
//! quick_gelu(x)  = x s(1.702 x)           s(z) = 1 / (1 + exp(-z))
//! quick_gelu'(x) = s(z) (1 + z s(-z))     z = 1.702 x
//! relu(x)  = max(x, 0)                relu'(x) = 1 where x > 0, else 0
//! ```
//! Backward: `dx = dy f'(x)`. GELU is the exact form of the published backbones, not the tanh
//! approximation. QuickGELU is the approximation that CLIP was trained with.
//!
//! Shapes: any; `x`, `y`, `dy`, `dx` have the same length. Saved for the backward pass: `x`. For
//! the ReLU, the output also works, since both are positive at the same elements.
//! Cost: one read and one write forward, two reads and one write backward; about thirty FLOP per
//! element for GELU.
//!
//! The fast GELU computes the upper tail as `1 - Phi(|x|) = exp(-x^2 / 2) t P(t) / 2` with `t = 1 /
//! (1 + 0.3 |x| / sqrt 2)`. `P` has degree 8. It was fitted here to `exp(z^2) erfc(z)` for the
//! least relative error on `0 <= z <= 9.5`, which is 2e-8. A rational form of erf needs fewer
//! operations but loses the tail in `1 + erf`, and the derivative needs the exponential anyway. The
//! absolute error of Phi and of the derivative is a few 1e-7 at most.
//!
//! On a GPU: the hidden layer of ViT-L, `[4100, 4096]` bf16 for four images of 512 px, moves 67 MB
//! forward and 101 MB backward. The floor on an H200 (4.3 TB/s) is 16 and 23 us, at about 30
//! FLOP per element. A block has 256 threads with 8 elements each: one 16-byte access per thread
//! and operand in bf16. GELU uses `erff` there, which loses relative accuracy below -4, where
//! values are under 1.3e-4.
//!
//! Source: spec backbones §1.1.

mod checks;
mod cpu;
mod gpu;
pub mod reference;
#[cfg(test)]
mod tests;

pub(crate) use cpu::{gelu, gelu_slope};

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

/// Factor of QuickGELU's argument.
const QUICK: f64 = 1.702;

/// A pointwise nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Phi(x)` with the exact normal distribution function.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

/// An activation of `n` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointwise {
    /// The nonlinearity.
    pub f: Activation,
    /// Elements.
    pub n: usize,
}

impl Operation for Pointwise {
    const NAME: &'static str = "activation";
}

/// Call that writes `y = f(x)`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Input, `[n]`.
    pub x: M::In<'a, T>,
    /// Result, `[n]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Pointwise;

    fn list(&mut self, s: &Pointwise, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n);
        w.writes("y", &mut self.y, s.n);
    }
}

/// Call that writes `dx = dy f'(x)`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Input of the forward pass, `[n]`; for the ReLU its output works as well.
    pub x: M::In<'a, T>,
    /// Incoming gradient, `[n]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Pointwise;

    fn list(&mut self, s: &Pointwise, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n);
        w.reads("dy", &mut self.dy, s.n);
        w.writes("dx", &mut self.dx, s.n);
    }
}
