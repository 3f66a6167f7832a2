//! Convolution of channels-last maps.
//!
//! ```text
//! y[b, oy, ox, o] = bias[o]
//!     + sum_{ky, kx, i} x[b, oy s + d ky - p, ox s + d kx - p, i] weight[o, i, ky, kx]
//! ```
//! with stride `s`, dilation `d` and padding `p`; `x` is 0 outside its map. Backward, over all `oy, ky` that use
//! pixel `iy`:
//! ```text
//! dx[b, iy, ix, i] =
//!     sum_{ky, kx, o} dy[b, (iy + p - d ky) / s, (ix + p - d kx) / s, o] weight[o, i, ky, kx]
//! dweight[o, i, ky, kx] +=
//!     sum_{b, oy, ox} dy[b, oy, ox, o] x[b, oy s + d ky - p, ox s + d kx - p, i]
//! dbias[o] += sum_{b, oy, ox} dy[b, oy, ox, o]
//! ```
//! Shapes: `x`, `dx` are `[b, h, w, ci]`; `y`, `dy` `[b, ho, wo, co]` where
//! `ho = (h + 2p - d (kh - 1) - 1) / s + 1`; `weight` as published, `[co, ci, kh, kw]`; `bias` `[co]`. Saved for
//! the backward pass: `x`, only if the weight is trained.
//!
//! Each direction is a matrix product of unfolded pixels (im2col). It handles one block of output
//! pixels at a time, so that the unfolded rows fit in cache-sized scratch memory. The gradient of
//! `x` unfolds `dy` instead of folding products back (col2im): a gather without races, where each
//! sum is inside one product. With a stride above 1 it multiplies zeros; the networks here use
//! strides in only a place or two. A 1 x 1 kernel with stride 1 needs no unfolding and calls the
//! linear layer directly.
//!
//! Cost: `2 b ho wo co ci kh kw` FLOP forward and for each of `dx` (times `s^2`) and `dweight`.
//!
//! On a GPU: a 3 x 3 convolution of 256 channels over `[4, 128, 128]` is 77 GFLOP, 98 us on an H200
//! (790 TFLOP/s in bf16). Its unfolded pixels are 302 MB written and read, 140 us at 4.3 TB/s, so
//! an implicit GEMM that unfolds on the fly would gain more than any tuning of this form. Blocks of
//! 32 million elements are unfolded, one thread per 8 channels of a tap, in the order `[kh, kw, c]`
//! in which they are contiguous. The weight is reordered to match once per call.
//!
//! Source: spec mask2former §2.1 (1 x 1) and §2.7 (3 x 3, padding 1), backbones §4.6 (dilation).

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;
mod unfold;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::ops::linear::Linear;
use crate::{KernelError, Result, Write};

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub b: usize,
    /// Rows of `x`.
    pub h: usize,
    /// Columns of `x`.
    pub w: usize,
    /// Channels of `x`.
    pub ci: usize,
    /// Channels of `y`.
    pub co: usize,
    /// Rows of the kernel.
    pub kh: usize,
    /// Columns of the kernel.
    pub kw: usize,
    /// Step in pixels of `x` from one pixel of `y` to the next.
    pub stride: usize,
    /// Rows and columns of zeros around `x` on every side.
    pub pad: usize,
    /// Distance in pixels of `x` between neighbouring taps of the kernel.
    pub dilation: usize,
}

impl Operation for Conv2d {
    const NAME: &'static str = "conv2d";

    fn check(&self) -> Result<()> {
        self.output().map(drop)
    }
}

impl Conv2d {
    /// Rows and columns of `y`.
    ///
    /// # Errors
    /// A stride, dilation or kernel size of 0, or a kernel larger than the padded map.
    pub fn output(&self) -> Result<(usize, usize)> {
        let size = |x: usize, k: usize| {
            let reach = k.checked_sub(1)?.checked_mul(self.dilation)?;
            let room = (x + 2 * self.pad).checked_sub(reach + 1)?;
            (self.dilation > 0).then_some(room.checked_div(self.stride)? + 1)
        };
        match (size(self.h, self.kh), size(self.w, self.kw)) {
            (Some(h), Some(w)) => Ok((h, w)),
            _ => {
                let Conv2d { h, w, kh, kw, stride, pad, dilation, .. } = self;
                let dilated = match dilation {
                    1 => String::new(),
                    _ => format!(" and dilation {dilation}"),
                };
                let what = format!(
                    "a {kh} x {kw} kernel with stride {stride}{dilated} does not fit a {h} x {w} \
                     map padded by {pad}"
                );
                Err(KernelError::Size { op: Self::NAME, what })
            }
        }
    }

    /// Linear layer equal to this convolution, if it is 1 x 1 with stride 1 and no padding.
    fn pointwise(&self) -> Option<Linear> {
        let alone = (self.kh, self.kw, self.stride, self.pad) == (1, 1, 1, 0);
        alone.then_some(Linear { n: self.b * self.h * self.w, m: self.co, k: self.ci })
    }

    /// Elements of `x`, `weight` and `y`; no `y` where the kernel does not fit.
    fn lengths(&self) -> [usize; 3] {
        let (ho, wo) = self.output().unwrap_or((0, 0));
        let weight = self.co * self.ci * self.kh * self.kw;
        [self.b * self.h * self.w * self.ci, weight, self.b * ho * wo * self.co]
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Map, `[b, h, w, ci]`.
    pub x: M::In<'a, T>,
    /// Weight, `[co, ci, kh, kw]`.
    pub weight: M::In<'a, T>,
    /// Bias, `[co]`; left out: 0.
    pub bias: Option<M::In<'a, M::Sum<T>>>,
    /// Result, `[b, ho, wo, co]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Conv2d;

    fn list(&mut self, s: &Conv2d, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("weight", &mut self.weight, weight);
        w.writes("y", &mut self.y, y);
        w.reads("x", &mut self.x, x);
        w.reads_if("bias", &mut self.bias, s.co);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Weight, `[co, ci, kh, kw]`.
    pub weight: M::In<'a, T>,
    /// Incoming gradient, `[b, ho, wo, co]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[b, h, w, ci]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Conv2d;

    fn list(&mut self, s: &Conv2d, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("weight", &mut self.weight, weight);
        w.reads("dy", &mut self.dy, y);
        w.writes("dx", &mut self.dx, x);
    }
}

/// Call that adds to `dweight` and `dbias`.
#[derive(Default)]
pub struct ParameterGradients<'a, M: Memory, T: Element> {
    /// Map of the forward pass, `[b, h, w, ci]`. Only `dweight` needs it.
    pub x: Option<M::In<'a, T>>,
    /// Incoming gradient, `[b, ho, wo, co]`.
    pub dy: M::In<'a, T>,
    /// Gradient of the weight, `[co, ci, kh, kw]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the bias, `[co]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for ParameterGradients<'a, M, T> {
    type Op = Conv2d;

    fn list(&mut self, s: &Conv2d, w: &mut impl Walk<'a, M>) {
        let [x, weight, y] = s.lengths();
        w.reads("dy", &mut self.dy, y);
        w.stores_if("dweight", &mut self.dweight, weight, Write::Add);
        if self.dweight.is_some() {
            w.reads("x", self.x.get_or_insert_default(), x);
        }
        w.stores_if("dbias", &mut self.dbias, s.co, Write::Add);
    }
}
