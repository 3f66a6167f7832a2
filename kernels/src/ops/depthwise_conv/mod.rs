//! Depthwise convolution of channels-last maps: one kernel per channel, stride 1.
//!
//! ```text
//! y[b, oy, ox, j] = bias[j] + sum_{ky, kx} x[b, oy + ky - p, ox + kx - p, j] weight[j, ky, kx]
//! ```
//! with padding `p`; `x` is 0 outside its map. Backward:
//! ```text
//! dx[b, iy, ix, j]     = sum_{ky, kx} dy[b, iy + p - ky, ix + p - kx, j] weight[j, ky, kx]
//! dweight[j, ky, kx]  += sum_{b, oy, ox} dy[b, oy, ox, j] x[b, oy + ky - p, ox + kx - p, j]
//! dbias[j]            += sum_{b, oy, ox} dy[b, oy, ox, j]
//! ```
//! Shapes: `x`, `dx` are `[b, h, w, c]`; `y`, `dy` `[b, ho, wo, c]` where `ho = h + 2p - k + 1`;
//! `weight` as published, `[c, 1, k, k]`; `bias` `[c]`. Saved for the backward pass: `x`, only if the
//! weight is trained.
//!
//! `dx` is the same convolution of `dy` with the kernel turned by half a turn and padding `k-1-p`,
//! so both directions share their code and padding must be less than `k`.
//!
//! Cost: `2 b ho wo c k^2` FLOP forward and for each of `dx` and `dweight`.
//!
//! On a GPU: 7 x 7 over the maps of ConvNeXt-L at stride 16, four images of 512 px, `[4, 32, 32,
//! 768]`, is 308 MFLOP and 13 MB in bf16. That is 3 us on an H200 (4.3 TB/s) and 5 us of multiply-adds
//! (67 TFLOP/s in f32), so arithmetic decides and loads must be few. A thread computes four neighbouring
//! pixels of eight channels. For each row of the kernel it reads ten pixels once and uses each for
//! up to seven taps. Neighbouring threads have neighbouring channels, so accesses are contiguous.
//! Gradients of the weight are sums over lines of pixels in two passes.
//!
//! Source: spec backbones §4.7 (7 x 7, padding 3).

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result, Write};

/// Sizes of a depthwise convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepthwiseConv {
    /// Images.
    pub b: usize,
    /// Rows of `x`.
    pub h: usize,
    /// Columns of `x`.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Rows and columns of the kernel.
    pub k: usize,
    /// Rows and columns of zeros around `x` on every side.
    pub pad: usize,
}

impl Operation for DepthwiseConv {
    const NAME: &'static str = "depthwise_conv";

    fn check(&self) -> Result<()> {
        self.output().map(drop)
    }

    fn is_empty(&self) -> bool {
        self.b * self.c == 0
    }
}

impl DepthwiseConv {
    /// Rows and columns of `y`.
    ///
    /// # Errors
    /// A kernel larger than the padded map; padding that is not less than the kernel.
    pub fn output(&self) -> Result<(usize, usize)> {
        let DepthwiseConv { h, w, k, pad, .. } = *self;
        let size = |x: usize| Some((x + 2 * pad).checked_sub(k)? + 1).filter(|_| x > 0);
        let what = match (size(h), size(w)) {
            _ if pad >= k => format!("padding by {pad} is not less than the kernel's {k} rows"),
            (Some(h), Some(w)) => return Ok((h, w)),
            _ => format!("a {k} x {k} kernel does not fit a {h} x {w} map padded by {pad}"),
        };
        Err(KernelError::Size { op: Self::NAME, what })
    }

    /// The convolution of `dy` that gives `dx`, with the kernel turned by half a turn.
    fn turned(&self) -> DepthwiseConv {
        let (h, w) = self.output().unwrap_or((0, 0));
        DepthwiseConv { h, w, pad: self.k.saturating_sub(self.pad + 1), ..*self }
    }

    /// Elements of `x`, `weight` and `y`; no `y` where the kernel does not fit.
    fn lengths(&self) -> [usize; 3] {
        let (ho, wo) = self.output().unwrap_or((0, 0));
        let map = |h: usize, w: usize| self.b * h * w * self.c;
        [map(self.h, self.w), self.c * self.k * self.k, map(ho, wo)]
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Map, `[b, h, w, c]`.
    pub x: M::In<'a, T>,
    /// Weight, `[c, 1, k, k]`.
    pub weight: M::In<'a, T>,
    /// Bias, `[c]`; left out: 0.
    pub bias: Option<M::In<'a, M::Sum<T>>>,
    /// Result, `[b, ho, wo, c]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = DepthwiseConv;

    fn list(&mut self, s: &DepthwiseConv, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("x", &mut self.x, x);
        w.reads("weight", &mut self.weight, weight);
        w.reads_if("bias", &mut self.bias, s.c);
        w.writes("y", &mut self.y, y);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Weight, `[c, 1, k, k]`.
    pub weight: M::In<'a, T>,
    /// Incoming gradient, `[b, ho, wo, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[b, h, w, c]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = DepthwiseConv;

    fn list(&mut self, s: &DepthwiseConv, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("weight", &mut self.weight, weight);
        w.reads("dy", &mut self.dy, y);
        w.writes("dx", &mut self.dx, x);
    }
}

/// Call that adds to `dweight` and `dbias`.
#[derive(Default)]
pub struct ParameterGradients<'a, M: Memory, T: Element> {
    /// Map of the forward pass, `[b, h, w, c]`. Only `dweight` needs it.
    pub x: Option<M::In<'a, T>>,
    /// Incoming gradient, `[b, ho, wo, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of the weight, `[c, 1, k, k]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the bias, `[c]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for ParameterGradients<'a, M, T> {
    type Op = DepthwiseConv;

    fn list(&mut self, s: &DepthwiseConv, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("dy", &mut self.dy, y);
        w.stores_if("dweight", &mut self.dweight, weight, Write::Add);
        if self.dweight.is_some() {
            w.reads("x", self.x.get_or_insert_default(), x);
        }
        w.stores_if("dbias", &mut self.dbias, s.c, Write::Add);
    }
}
