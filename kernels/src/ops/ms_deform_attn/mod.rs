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

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

const OP: &str = "ms_deform_attn";

/// Sizes of a multi-scale deformable attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MsDeformAttn<'a> {
    /// Images.
    pub b: usize,
    /// Height and width of each level, in the order of their tokens.
    pub levels: &'a [(usize, usize)],
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub d: usize,
    /// Points per head and level.
    pub points: usize,
}

impl MsDeformAttn<'_> {
    /// Number of tokens of all levels.
    pub fn tokens(&self) -> usize {
        self.levels.iter().map(|(h, w)| h * w).sum()
    }

    /// Points per head over all levels.
    pub fn samples(&self) -> usize {
        self.levels.len() * self.points
    }

    /// Writes `out` and `attn`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, a level without area, or no point to sample.
    pub fn forward<T: Real>(
        &self,
        value: &[T],
        offsets: &[T],
        logits: &[T],
        out: &mut [T],
        attn: &mut [T],
    ) -> Result<()> {
        let [features, points] = self.check(value, offsets)?;
        check_len(OP, "logits", logits, points)?;
        check_len(OP, "out", out, features)?;
        check_len(OP, "attn", attn, points)?;
        if dry_run::skip(OP) {
            return Ok(());
        }
        if T::IS_F32 {
            let (out, attn) = (f32s_mut(out), f32s_mut(attn));
            cpu::forward(self, f32s(value), f32s(offsets), f32s(logits), out, attn);
        } else {
            reference::forward(self, value, offsets, logits, out, attn);
        }
        Ok(())
    }

    /// Writes `dvalue`, `doffsets` and `dlogits`; each is optional.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes, a level without area, or no point to sample.
    pub fn backward<T: Real>(
        &self,
        value: &[T],
        offsets: &[T],
        attn: &[T],
        dout: &[T],
        dvalue: Option<&mut [T]>,
        doffsets: Option<&mut [T]>,
        dlogits: Option<&mut [T]>,
    ) -> Result<()> {
        let [features, points] = self.check(value, offsets)?;
        check_len(OP, "attn", attn, points)?;
        check_len(OP, "dout", dout, features)?;
        for (name, d, len) in [
            ("dvalue", &dvalue, features),
            ("doffsets", &doffsets, 2 * points),
            ("dlogits", &dlogits, points),
        ] {
            if let Some(d) = d {
                check_len(OP, name, d, len)?;
            }
        }
        if dry_run::skip_with(OP, || cpu::backward_cost(self)) {
            return Ok(());
        }
        if T::IS_F32 {
            let (dvalue, doffsets, dlogits) =
                (dvalue.map(f32s_mut), doffsets.map(f32s_mut), dlogits.map(f32s_mut));
            let (value, offsets, attn, dout) = (f32s(value), f32s(offsets), f32s(attn), f32s(dout));
            cpu::backward(self, value, offsets, attn, dout, dvalue, doffsets, dlogits);
        } else {
            reference::backward(self, value, offsets, attn, dout, dvalue, doffsets, dlogits);
        }
        Ok(())
    }

    /// Checks the arguments; returns the elements of `[b, s, heads, d]` and `[b, s, heads, levels,
    /// points]`.
    fn check<T: Real>(&self, value: &[T], offsets: &[T]) -> Result<[usize; 2]> {
        self.check_sizes()?;
        let rows = self.b * self.tokens() * self.heads;
        check_len(OP, "value", value, rows * self.d)?;
        check_len(OP, "offsets", offsets, rows * self.samples() * 2)?;
        Ok([rows * self.d, rows * self.samples()])
    }

    fn check_sizes(&self) -> Result<()> {
        if let Some((h, w)) = self.levels.iter().find(|(h, w)| h * w == 0) {
            let what = format!("a level of {h} by {w} has no token to sample");
            return Err(KernelError::Size { op: OP, what });
        }
        if self.samples() == 0 || self.d == 0 || self.heads == 0 {
            let what = format!(
                "{} levels, {} points, {} heads of {} channels leave nothing to sample",
                self.levels.len(),
                self.points,
                self.heads,
                self.d
            );
            return Err(KernelError::Size { op: OP, what });
        }
        Ok(())
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
