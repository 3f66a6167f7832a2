//! Multi-scale deformable attention: every token samples a few points of every level, at positions
//! it predicts itself.
//!
//! The queries are the tokens of the levels. Token (i, j) of a level of `h` by `w` has the
//! reference point `ref = ((j + 0.5) / w, (i + 0.5) / h)`, the same for every sampled level. Per
//! head, with `k = (l, p)`:
//! ```text
//! a[k]   = softmax over k of logits[k]
//! loc[k] = ref + offsets[k] / (W_l, H_l)         px = loc.x W_l - 0.5      py = loc.y H_l - 0.5
//! out    = sum_k a[k] bilinear(value_l, px[k], py[k])
//! ```
//! Bilinear interpolation has `lx = px - floor(px)`, `hx = 1 - lx` (y alike) and the taps v1 = (y0,
//! x0), v2 = (y0, x0 + 1), v3 = (y0 + 1, x0), v4 = (y0 + 1, x0 + 1). Taps outside the level read 0,
//! and a point counts only if `-1 < px < W_l` and `-1 < py < H_l`. Backward, with `g = dout` of the
//! head:
//! ```text
//! da       = g . s                                 s = hy hx v1 + hy lx v2 + ly hx v3 + ly lx v4
//! doff.x   = a g . (hy (v2 - v1) + ly (v4 - v3))   W_l of loc and 1/W_l of offsets cancel
//! doff.y   = a g . (hx (v3 - v1) + lx (v4 - v2))
//! dv(tap) += a w(tap) g
//! dlogits  = a (da - sum_k a da)
//! ```
//! Shapes, with `s` the tokens of all levels in level order: `value` `[b, s, heads, d]`, `offsets`
//! `[b, s, heads, levels, points, 2]` in xy order, `logits` and `attn` `[b, s, heads, levels,
//! points]`, `out` `[b, s, heads * d]`. Saved for the backward pass: the inputs and `attn`. Cost:
//! `8 b s heads levels points d` FLOP forward, twice that backward (the product of every tap with
//! `g`, and its term of `dvalue`). Every point reads four rows of `d`. One task per (image, head)
//! scatters into `dvalue` and owns its channels, so the sum has one order. On a device it is a sum
//! of 64-bit integers, which has the same result in any order.
//!
//! On a GPU: the pixel decoder at 512 px, batch 4, has 5376 tokens, 8 heads of 32 and 12 points.
//! With features in bf16 that is 0.5 GFLOP and 55 MB of compulsory traffic forward, 1.1 GFLOP and
//! 83 MB backward; the floor on an H200 (4.3 TB/s) is 13 and 19 us. The other reads of the
//! gathers come from the L2 cache; docs/kernels.md has their traffic and the cost of the integer
//! sums.
//! Source: spec mask2former §2.3-2.5.

mod checks;
mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Real, Result, Write};

/// Sizes of a multi-scale deformable attention. A device takes up to 4 levels, 32 points per head
/// over all levels, and 32 channels per head in multiples of 4.
#[derive(Debug, Clone, PartialEq)]
pub struct MsDeformAttn {
    /// Images.
    pub b: usize,
    /// Height and width of each level, in the order of their tokens.
    pub levels: Vec<(usize, usize)>,
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// Points per head and level.
    pub points: usize,
}

impl Operation for MsDeformAttn {
    const NAME: &'static str = "ms_deform_attn";

    fn check(&self) -> Result<()> {
        let op = Self::NAME;
        if let Some((h, w)) = self.levels.iter().find(|(h, w)| h * w == 0) {
            let what = format!("a level of {h} by {w} has no token to sample");
            return Err(KernelError::Size { op, what });
        }
        if self.samples() == 0 || self.d == 0 || self.heads == 0 {
            let what = format!(
                "{} levels, {} points, {} heads of {} channels leave nothing to sample",
                self.levels.len(),
                self.points,
                self.heads,
                self.d
            );
            return Err(KernelError::Size { op, what });
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.b == 0
    }
}

/// Call that writes `out` and `attn`. Views begin at multiples of 16 bytes.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Features to sample, `[b, s, heads, d]`.
    pub value: M::In<'a, T>,
    /// Offsets (x, y) of the points in pixels, `[b, s, heads, levels, points, 2]`.
    pub offsets: M::In<'a, M::Sum<T>>,
    /// Logits of the weights, `[b, s, heads, levels, points]`.
    pub logits: M::In<'a, M::Sum<T>>,
    /// Result, `[b, s, heads * d]`.
    pub out: M::Out<'a, T>,
    /// Weights of the points, `[b, s, heads, levels, points]`.
    pub attn: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = MsDeformAttn;

    fn list(&mut self, s: &MsDeformAttn, w: &mut impl Walk<'a, M>) {
        let (features, points) = (s.features(), s.all_points());
        w.reads("value", &mut self.value, features);
        w.reads("offsets", &mut self.offsets, 2 * points);
        w.reads("logits", &mut self.logits, points);
        w.writes("out", &mut self.out, features);
        w.writes("attn", &mut self.attn, points);
    }
}

/// Call that writes `dvalue`, `doffsets` and `dlogits`; each is optional. On a device an infinite or
/// NaN element of `dout` makes all of `dvalue` NaN. Views begin at multiples of 16 bytes.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Features, `[b, s, heads, d]`.
    pub value: M::In<'a, T>,
    /// Offsets of the points, `[b, s, heads, levels, points, 2]`.
    pub offsets: M::In<'a, M::Sum<T>>,
    /// Weights of the points, `[b, s, heads, levels, points]`.
    pub attn: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[b, s, heads * d]`.
    pub dout: M::In<'a, T>,
    /// Gradient of `value`, `[b, s, heads, d]`.
    pub dvalue: Option<M::Out<'a, T>>,
    /// Gradient of `offsets`, `[b, s, heads, levels, points, 2]`.
    pub doffsets: Option<M::Out<'a, M::Sum<T>>>,
    /// Gradient of `logits`, `[b, s, heads, levels, points]`.
    pub dlogits: Option<M::Out<'a, M::Sum<T>>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = MsDeformAttn;

    fn list(&mut self, s: &MsDeformAttn, w: &mut impl Walk<'a, M>) {
        let (features, points) = (s.features(), s.all_points());
        w.reads("value", &mut self.value, features);
        w.reads("offsets", &mut self.offsets, 2 * points);
        w.reads("attn", &mut self.attn, points);
        w.reads("dout", &mut self.dout, features);
        w.stores_if("dvalue", &mut self.dvalue, features, Write::Over);
        w.stores_if("doffsets", &mut self.doffsets, 2 * points, Write::Over);
        w.stores_if("dlogits", &mut self.dlogits, points, Write::Over);
    }
}

impl MsDeformAttn {
    /// Number of tokens of all levels.
    pub fn tokens(&self) -> usize {
        self.levels.iter().map(|(h, w)| h * w).sum()
    }

    /// Points per head over all levels.
    pub fn samples(&self) -> usize {
        self.levels.len() * self.points
    }

    /// Elements of `[b, s, heads, d]`.
    fn features(&self) -> usize {
        self.b * self.tokens() * self.heads * self.d
    }

    /// Elements of `[b, s, heads, levels, points]`.
    fn all_points(&self) -> usize {
        self.b * self.tokens() * self.heads * self.samples()
    }

    /// Row of each level's first token within an image.
    fn starts(&self) -> Vec<usize> {
        self.levels
            .iter()
            .scan(0, |next, (h, w)| {
                let start = *next;
                *next += h * w;
                Some(start)
            })
            .collect()
    }

    /// Reference point (x, y) of each token, in units of the image.
    fn reference_points<T: Real>(&self) -> Vec<[T; 2]> {
        let centre = |i: usize, n: usize| (T::of(i as f64) + T::of(0.5)) / T::of(n as f64);
        self.levels
            .iter()
            .flat_map(|&(h, w)| (0..h * w).map(move |k| [centre(k % w, w), centre(k / w, h)]))
            .collect()
    }
}
