//! Linear layer: a product with a weight that has one row per output, plus a bias.
//!
//! ```text
//! y[n, m] = sum_k x[n, k] weight[m, k] + bias[m]
//! ```
//! Backward:
//! ```text
//! dx[n, k] = sum_m dy[n, m] weight[m, k]
//! dweight[m, k] += sum_n dy[n, m] x[n, k]        dbias[m] += sum_n dy[n, m]
//! ```
//! Saved for the backward pass: `x`, only if the weight is trained; the backward of a frozen layer
//! is one product.
//!
//! Cost: `2 n m k` FLOP forward and for each of `dx` and `dweight`.
//!
//! The bias is added while a tile of the result is stored. Where the product is computed by the
//! `gemm` crate, the bias costs one write: `y` is filled with rows of it and the product is added.
//!
//! [`Linear::fused`] fuses a frozen layer with its neighbours: norm or GELU before it, residual
//! connection after it.
//!
//! On a GPU: cuBLASLt adds the bias in its epilogue, also applies a following ReLU there, and
//! computes the gradient of the bias in the product of `dweight`. An MLP product of ViT-L for four
//! images of 512 px, 4100 x 4096 x 1024, is 34 GFLOP: 44 us on an H200 (790 TFLOP/s in bf16).
//!
//! Source: spec backbones §2.2 (every projection of a block; weights as the published checkpoints
//! store them).

mod checks;
mod cpu;
mod fused;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

pub use fused::{Input, Output, Weight};

use crate::Write;
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::ops::matmul::MatMul;

/// Sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Rows: tokens of all images.
    pub n: usize,
    /// Outputs.
    pub m: usize,
    /// Inputs.
    pub k: usize,
}

impl Operation for Linear {
    const NAME: &'static str = "linear";
}

impl Linear {
    /// `y = x weight^T`.
    fn product_of_y(&self) -> MatMul {
        MatMul::new(self.n, self.m, self.k).trans_b()
    }

    /// `dx = dy weight`.
    fn product_of_dx(&self) -> MatMul {
        MatMul::new(self.n, self.k, self.m)
    }

    /// `dweight = dy^T x`.
    pub(crate) fn product_of_dweight(&self) -> MatMul {
        MatMul::new(self.m, self.k, self.n).trans_a()
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Rows, `[n, k]`.
    pub x: M::In<'a, T>,
    /// Weight, `[m, k]`.
    pub weight: M::In<'a, T>,
    /// Bias, `[m]`; left out: 0.
    pub bias: Option<M::In<'a, M::Sum<T>>>,
    /// Result, `[n, m]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Linear;

    fn list(&mut self, s: &Linear, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.k);
        w.reads("weight", &mut self.weight, s.m * s.k);
        w.writes("y", &mut self.y, s.n * s.m);
        w.reads_if("bias", &mut self.bias, s.m);
    }
}

/// Call that writes `y = max(x weight^T + bias, 0)`: a layer and a ReLU in one.
#[derive(Default)]
pub struct ForwardRelu<'a, M: Memory, T: Element> {
    /// Rows, `[n, k]`.
    pub x: M::In<'a, T>,
    /// Weight, `[m, k]`.
    pub weight: M::In<'a, T>,
    /// Bias, `[m]`.
    pub bias: M::In<'a, M::Sum<T>>,
    /// Result, `[n, m]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for ForwardRelu<'a, M, T> {
    type Op = Linear;

    fn list(&mut self, s: &Linear, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.n * s.k);
        w.reads("weight", &mut self.weight, s.m * s.k);
        w.writes("y", &mut self.y, s.n * s.m);
        w.reads("bias", &mut self.bias, s.m);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Weight, `[m, k]`.
    pub weight: M::In<'a, T>,
    /// Incoming gradient, `[n, m]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, k]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Linear;

    fn list(&mut self, s: &Linear, w: &mut impl Walk<'a, M>) {
        w.reads("weight", &mut self.weight, s.m * s.k);
        w.reads("dy", &mut self.dy, s.n * s.m);
        w.writes("dx", &mut self.dx, s.n * s.k);
    }
}

/// Call that adds to `dweight` and `dbias`. On a device one product computes both.
#[derive(Default)]
pub struct ParameterGradients<'a, M: Memory, T: Element> {
    /// Input of the forward pass, `[n, k]`. Only `dweight` needs it.
    pub x: Option<M::In<'a, T>>,
    /// Incoming gradient, `[n, m]`.
    pub dy: M::In<'a, T>,
    /// Gradient of the weight, `[m, k]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the bias, `[m]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for ParameterGradients<'a, M, T> {
    type Op = Linear;

    fn list(&mut self, s: &Linear, w: &mut impl Walk<'a, M>) {
        w.reads("dy", &mut self.dy, s.n * s.m);
        w.stores_if("dweight", &mut self.dweight, s.m * s.k, Write::Add);
        if self.dweight.is_some() {
            w.reads("x", self.x.get_or_insert_default(), s.n * s.k);
        }
        w.stores_if("dbias", &mut self.dbias, s.m, Write::Add);
    }
}
