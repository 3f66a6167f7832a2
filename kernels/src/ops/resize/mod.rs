//! Separable resampling of feature maps without corner alignment.
//!
//! ```text
//! y[n, oy, ox, :] = sum_i sum_j wy[oy, i] * wx[ox, j] * x[n, i, j, :]
//! dx[n, i, j, :]  = sum_oy sum_ox wy[oy, i] * wx[ox, j] * dy[n, oy, ox, :]
//! ```
//! The tables `wy`, `wx` have a few taps per row and come from [`Axis::new`]: bilinear, bicubic (a
//! = -0.75), antialiased bicubic (a = -0.5) or nearest neighbour. They are given by output size or by scale factor,
//! which place the samples differently. The backward pass runs the same loops over the transposed
//! tables, so it gathers and needs no atomics.
//!
//! Shapes: `x`, `dx` are `[n, h, w, c]`; `y`, `dy` `[n, ho, wo, c]`. Mask logits `[b, q, h, w]` are
//! the case `n = b * q`, `c = 1`, which is vectorised along the width instead of the channels. The
//! patch kernels `[o, i, 14, 14]` of a checkpoint are another.
//! Nothing is saved. Cost forward with k taps: 2 k n ho c (w + wo) FLOP; one read of x and one
//! write of y.
//! Coordinates and weights are f64 and rounded once to the element type. An implementation with f32
//! coordinates differs by about 1e-6.
//!
//! On a GPU: a feature map of four images, `[4, 32, 32, 1024]` to 128 x 128 in bf16, writes 134 MB
//! and reads 8. The floor on an H200 (4.3 TB/s) is 33 us, at 8 FLOP per element of the larger
//! map in either direction. A thread handles 8 channels of a pixel; the four taps come from the L1
//! and L2 caches. Tables are uploaded once per size.
//!
//! Source: spec backbones §3, mask2former (conventions), §1 and §6.

mod axis;
mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

pub use axis::{Axis, Mode, Step};
pub use gpu::AxisGpu;

use std::ops::Range;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result, check_len};
use axis::Taps;

/// Sizes and tap tables of a resampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    /// Maps.
    pub n: usize,
    /// Channels, the fastest axis; 1 for planar maps `[n, h, w]`.
    pub c: usize,
    /// Taps of the rows: `h` to `ho`.
    pub y: Axis,
    /// Taps of the columns: `w` to `wo`.
    pub x: Axis,
}

impl Operation for Resize {
    const NAME: &'static str = "resize";

    fn is_empty(&self) -> bool {
        self.n * self.c == 0
    }
}

/// Call that writes `y`.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Maps, `[n, h, w, c]`.
    pub x: M::In<'a, T>,
    /// Result, `[n, ho, wo, c]`.
    pub y: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = Resize;

    fn list(&mut self, s: &Resize, w: &mut impl Walk<'a, M>) {
        w.reads("x", &mut self.x, s.input_len());
        w.writes("y", &mut self.y, s.output_len());
    }
}

/// Call that writes `dx`.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Incoming gradient, `[n, ho, wo, c]`.
    pub dy: M::In<'a, T>,
    /// Gradient of `x`, `[n, h, w, c]`.
    pub dx: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = Resize;

    fn list(&mut self, s: &Resize, w: &mut impl Walk<'a, M>) {
        w.reads("dy", &mut self.dy, s.output_len());
        w.writes("dx", &mut self.dx, s.input_len());
    }
}

impl Resize {
    /// Writes some rows of every map of `y`, `[n, rows, wo, c]`, bitwise equal to
    /// those of [`Forward`].
    ///
    /// `x` `[n, n_rows, w, c]` has rows `first..first + n_rows` of every map.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; rows that read input rows not in `x`.
    pub fn forward_rows(
        &self,
        rows: Range<usize>,
        x: &[f32],
        (first, n_rows): (usize, usize),
        y: &mut [f32],
    ) -> Result<()> {
        check_len("resize", "x", x, self.n * n_rows * self.x.n_in() * self.c)?;
        check_len("resize", "y", y, self.n * rows.len() * self.x.n_out() * self.c)?;
        let within = |oy: usize| {
            let (index, _) = self.y.taps(oy);
            index.iter().all(|&i| (first..first + n_rows).contains(&(i as usize)))
        };
        if rows.end > self.y.n_out() || !rows.clone().all(within) {
            let what = format!("rows {rows:?} need more than the {n_rows} rows from {first}");
            return Err(KernelError::Size { op: "resize", what });
        }
        if !y.is_empty() {
            let strip = cpu::Strip { rows: rows.clone(), first, n_rows };
            cpu::apply_strip(self.c, &self.y.forward, &self.x.forward, &strip, x, y);
        }
        Ok(())
    }

    /// Number of elements of the input, `n h w c`.
    pub fn input_len(&self) -> usize {
        self.n * self.y.n_in() * self.x.n_in() * self.c
    }

    /// Number of elements of the output, `n ho wo c`.
    pub fn output_len(&self) -> usize {
        self.n * self.y.n_out() * self.x.n_out() * self.c
    }

    /// Name of the kernel without its type.
    fn kernel(&self) -> &'static str {
        if self.c == 1 { "resize_planar" } else { "resize" }
    }
}

/// Resamples row `oy` of one planar map `[h, w]` into `out` `[wo]`; `row` is scratch.
pub(crate) fn resample_row(
    s: &Resize,
    map: &[f32],
    oy: usize,
    row: &mut Vec<f32>,
    out: &mut [f32],
) {
    row.resize(s.x.n_in(), 0.0);
    cpu::one_row(1, &s.y.forward, &s.x.forward, map, (oy, 0), row, out);
}
