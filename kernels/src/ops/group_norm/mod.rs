//! Group norm of channels-last maps.
//!
//! ```text
//! mean = sum(x) / N        rstd = 1 / sqrt(sum((x - mean)^2) / N + eps)
//!                                        per image and group, N = hw c / groups
//! y    = (x - mean) * rstd * weight[c] + bias[c]
//! ```
//! Backward, with `xhat = (x - mean) * rstd` and `g = dy * weight[c]`:
//! ```text
//! dx         = rstd * (g - mean_group(g) - xhat * mean_group(g * xhat))
//! dweight[c] += sum_{b, hw}(dy * xhat)        dbias[c] += sum_{b, hw}(dy)
//! ```
//! Group `j` holds the channels `j c / groups ..` of every pixel of one image. The variance is
//! computed around the mean of each row split and the splits are merged with Chan's formula.
//! `E[x^2] - E[x]^2` is not used because it cancels.
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[b, hw, c]`; `weight`, `bias` and their gradients `[c]`;
//! `mean`, `rstd` `[b, groups]`.
//! Saved for the backward pass: `x` and `8 b groups` bytes of statistics.
//! Cost: about 8 FLOP per element forward; two reads and one write, so it is memory-bound.
//!
//! On a GPU: the finest map of the pixel decoder, `[4, 16384, 256]` bf16, is 34 MB. Forward reads
//! it twice and writes it once: floor on an H200 (4.3 TB/s) 23 us, 16 us if the second read
//! comes from the L2 cache. Backward reads `x` and `dy` twice and writes `dx`: 39 us. They take 8
//! and 16 FLOP per element. The statistics use one thread per channel, so that accesses of a warp
//! are contiguous for any group width. Row splits fill the grid and are merged in a fixed
//! order.
//!
//! Source: spec mask2former, conventions (32 groups, eps 1e-5, affine).

mod checks;
mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

pub(super) use self::cpu::{ROWS, backward, moments_of_groups, normalise};
use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result, Write};

/// Sizes of a group norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Images.
    pub b: usize,
    /// Pixels of an image.
    pub hw: usize,
    /// Channels.
    pub c: usize,
    /// Number of groups of channels.
    pub groups: usize,
    /// Term added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// Elements of a map.
    fn all(&self) -> usize {
        self.b * self.hw * self.c
    }

    /// Groups of all images.
    fn sets(&self) -> usize {
        self.b * self.groups
    }
}

impl Operation for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn check(&self) -> Result<()> {
        let what = if self.groups == 0 || !self.c.is_multiple_of(self.groups) {
            format!("{} channels do not divide into {} groups", self.c, self.groups)
        } else if self.hw * self.c == 0 {
            format!("{} pixels of {} channels have no mean", self.hw, self.c)
        } else {
            return Ok(());
        };
        Err(KernelError::Size { op: Self::NAME, what })
    }

    fn is_empty(&self) -> bool {
        self.b == 0
    }
}

/// Call that writes `y`, `mean` and `rstd`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Maps, `[b, hw, c]`.
    pub x: M::In<'a, T>,
    /// Weight, `[c]`.
    pub weight: M::In<'a, M::Sum<T>>,
    /// Bias, `[c]`.
    pub bias: M::In<'a, M::Sum<T>>,
    /// Result, `[b, hw, c]`.
    pub y: M::Out<'a, T>,
    /// Mean of each group, `[b, groups]`.
    pub mean: M::Out<'a, M::Sum<T>>,
    /// Reciprocal standard deviation of each group, `[b, groups]`.
    pub rstd: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = GroupNorm;

    fn list(&mut self, s: &GroupNorm, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.all());
        w.reads("weight", &mut self.weight, s.c);
        w.reads("bias", &mut self.bias, s.c);
        w.writes("y", &mut self.y, s.all());
        w.writes("mean", &mut self.mean, s.sets());
        w.writes("rstd", &mut self.rstd, s.sets());
    }
}

/// Call that writes `dx` and adds to `dweight` and `dbias`; each is optional.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Input of the forward pass, `[b, hw, c]`.
    pub x: M::In<'a, T>,
    /// Weight, `[c]`.
    pub weight: M::In<'a, M::Sum<T>>,
    /// Mean of each group, `[b, groups]`.
    pub mean: M::In<'a, M::Sum<T>>,
    /// Reciprocal standard deviation of each group, `[b, groups]`.
    pub rstd: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[b, hw, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[b, hw, c]`.
    pub dx: Option<M::Out<'a, T>>,
    /// Gradient of the weight, `[c]`.
    pub dweight: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of the bias, `[c]`.
    pub dbias: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = GroupNorm;

    fn list(&mut self, s: &GroupNorm, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.all());
        w.reads("weight", &mut self.weight, s.c);
        w.reads("mean", &mut self.mean, s.sets());
        w.reads("rstd", &mut self.rstd, s.sets());
        w.reads("dy", &mut self.dy, s.all());
        w.stores_if("dx", &mut self.dx, s.all(), Write::Over);
        w.stores_if("dweight", &mut self.dweight, s.c, Write::Add);
        w.stores_if("dbias", &mut self.dbias, s.c, Write::Add);
    }
}
