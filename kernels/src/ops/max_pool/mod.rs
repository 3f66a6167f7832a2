//! Maximum over windows of channels-last maps.
//!
//! ```text
//! y[b, oy, ox, i]  = max over ky, kx of x[b, oy s + ky - p, ox s + kx - p, i]
//! at[b, oy, ox, i] = ky k + kx of the first maximum, in this order
//! ```
//! with windows of `k x k` pixels, stride `s` and padding `p`; pixels off the map do not take part.
//! A NaN is larger than all else, as in PyTorch. Backward:
//! ```text
//! dx[b, iy, ix, i] = sum of dy[b, oy, ox, i] over the windows whose maximum is this pixel
//! ```
//! Shapes: `x`, `dx` are `[b, h, w, c]`; `y`, `dy`, `at` `[b, ho, wo, c]` where
//! `ho = (h + 2p - k) / s + 1`. Saved for the backward pass: `at`, one byte per element of `y`.
//! The backward pass gathers, so it needs no atomics. Cost: `k^2` comparisons per element of `y`.
//!
//! On a GPU: the stem of ResNet-50 for four images of 512 px, `[4, 256, 256, 64]` in bf16, reads 34
//! MB and writes 8 MB and 4 MB of positions: floor on an H200 (4.3 TB/s) 11 us, and as much
//! backward. A thread handles 8 channels of a pixel; windows overlap in the L1 cache.
//!
//! Source: spec backbones §4.6 (3 x 3, stride 2, padding 1).

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes of a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    /// Images.
    pub b: usize,
    /// Rows of `x`.
    pub h: usize,
    /// Columns of `x`.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Rows and columns of a window.
    pub k: usize,
    /// Step in pixels of `x` from one window to the next.
    pub stride: usize,
    /// Rows and columns around `x` on every side that windows may begin in.
    pub pad: usize,
}

/// Largest side of a window: a position in it is one byte.
const MOST: usize = 15;

impl MaxPool {
    /// Rows and columns of `y`.
    ///
    /// # Errors
    /// A stride or window of 0, a window that may miss the map or has more than 225 pixels, or a map
    /// without pixels.
    pub fn output(&self) -> Result<(usize, usize)> {
        let MaxPool { h, w, k, stride, pad, .. } = *self;
        let inside = 2 * pad <= k && (1..=MOST).contains(&k) && h.min(w) > 0;
        let size = |x: usize| Some((x + 2 * pad).checked_sub(k)?.checked_div(stride)? + 1);
        match (size(h), size(w)) {
            (Some(h), Some(w)) if inside => Ok((h, w)),
            _ => {
                let what = format!(
                    "windows of {k} x {k} with stride {stride} do not fit a {h} x {w} map padded by \
                     {pad}"
                );
                Err(KernelError::Size { op: Self::NAME, what })
            }
        }
    }

    /// Elements of `x` and `y`; no `y` where windows do not fit.
    fn lengths(&self) -> [usize; 2] {
        let (ho, wo) = self.output().unwrap_or((0, 0));
        [self.b * self.h * self.w * self.c, self.b * ho * wo * self.c]
    }

    /// Rows (or columns) of `x`, of which there are `n`, that window `o` covers.
    fn covered(&self, o: usize, n: usize) -> Range<usize> {
        let start = o * self.stride;
        start.saturating_sub(self.pad)..(start + self.k - self.pad).min(n)
    }

    /// Windows, of which there are `n` along an axis, that cover row (or column) `i` of `x`.
    fn windows(&self, i: usize, n: usize) -> Range<usize> {
        let at = i + self.pad;
        (at + 1).saturating_sub(self.k).div_ceil(self.stride)..(at / self.stride + 1).min(n)
    }

    /// Position of pixel `(y, x)` within window `(oy, ox)`.
    fn position(&self, (oy, ox): (usize, usize), (y, x): (usize, usize)) -> usize {
        let within = |o: usize, i: usize| i + self.pad - o * self.stride;
        within(oy, y) * self.k + within(ox, x)
    }
}

impl Operation for MaxPool {
    const NAME: &'static str = "max_pool";

    fn check(&self) -> Result<()> {
        self.output().map(drop)
    }

    fn is_empty(&self) -> bool {
        self.b * self.c == 0
    }
}

/// Call that writes `y` and `at`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Map, `[b, h, w, c]`.
    pub x: M::In<'a, T>,
    /// Largest value of each window, `[b, ho, wo, c]`.
    pub y: M::Out<'a, T>,
    /// Position of it within the window, `[b, ho, wo, c]`.
    pub at: M::Out<'a, u8>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = MaxPool;

    fn list(&mut self, s: &MaxPool, w: &mut impl Walk<'a, M>) {
        let [x, y] = s.lengths();
        w.reads("x", &mut self.x, x);
        w.writes("y", &mut self.y, y);
        w.writes("at", &mut self.at, y);
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Positions of the forward pass, `[b, ho, wo, c]`.
    pub at: M::In<'a, u8>,
    /// Incoming gradient, `[b, ho, wo, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[b, h, w, c]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = MaxPool;

    fn list(&mut self, s: &MaxPool, w: &mut impl Walk<'a, M>) {
        let [x, y] = s.lengths();
        w.reads("at", &mut self.at, y);
        w.reads("dy", &mut self.dy, y);
        w.writes("dx", &mut self.dx, x);
    }
}
