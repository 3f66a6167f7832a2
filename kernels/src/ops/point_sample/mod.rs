//! Bilinear sampling of maps and class masks at scattered points.
//!
//! A point `(x, y)` in `[0, 1]^2` is sampled at `px = x w - 0.5`, `py = y h - 0.5`. With `(x0, y0)`
//! the floor, `lx, ly` the fractions, `hx = 1 - lx`, `hy = 1 - ly`:
//! ```text
//! y = hy hx v[y0, x0] + hy lx v[y0, x0+1] + ly hx v[y0+1, x0] + ly lx v[y0+1, x0+1]
//! ```
//! Taps outside the map read 0, and a point with `px <= -1`, `py <= -1`, `px >= w` or `py >= h`
//! gives 0.
//! Backward: `dmap[tap] += weight(tap) * dy`. Each row is separate and takes its points in order,
//! so the sum has the same order for any number of threads. Points are constants.
//!
//! Shapes: maps `[r, h, w]`; points `[r, p, 2]`, or `[p, 2]` read by every row; values `[r, p]`.
//! [`LabelSample`] samples the binary masks `label == class` directly from the label map `[h, w]`,
//! so that masks of full size are never built.
//! Nothing is saved. Cost: about 20 FLOP and four scattered reads per point.
//!
//! On a GPU: 400 maps of 128 x 128 sampled at 12544 shared points read four values per point and
//! write 20 MB. The maps, 13 MB in bf16, stay in the L2 cache, so L2 bandwidth is the limit. The
//! floor on an H200 (4.3 TB/s) for the compulsory traffic is 8 us, at 20 FLOP per point. One
//! thread handles one point. The gradient of 76 matched maps at points of their own moves 14 MB (3
//! us), and 8 bytes per pixel more than once: it is summed in 64-bit integers scaled by the largest
//! value of the row, since their sum is the same in any order. Sampling labels at as many points
//! moves 12 MB, 3 us.
//!
//! Source: spec mask2former §2.4 (tap rule) and §4.2.

mod cpu;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod labels;
mod reference;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use gpu::LabelRows;
pub use labels::LabelSample;

use crate::{KernelError, Real, Result, check_len, dry_run, f32s, f32s_mut};

/// Sizes of a point sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointSample {
    /// Maps.
    pub r: usize,
    /// Rows of a map.
    pub h: usize,
    /// Columns of a map.
    pub w: usize,
    /// Points read from each map.
    pub p: usize,
    /// Whether the points are `[p, 2]`, read by every map, instead of `[r, p, 2]`. On a device they
    /// may also be `[sets, p, 2]`, each set read by `r / sets` consecutive maps.
    pub shared: bool,
}

/// Four taps of a point, given by the upper left one and the fractions.
#[derive(Debug, Clone, Copy)]
struct Taps<T> {
    /// Column of the left taps, from -1.
    x0: isize,
    /// Row of the upper taps, from -1.
    y0: isize,
    lx: T,
    ly: T,
}

impl<T: Real> Taps<T> {
    /// Returns the taps of a point; `None` if it is too far outside to touch the map, or NaN.
    #[inline(always)]
    fn at(h: usize, w: usize, x: T, y: T) -> Option<Taps<T>> {
        let (w, h) = (T::of(w as f64), T::of(h as f64));
        let (px, py) = (x * w - T::of(0.5), y * h - T::of(0.5));
        if !(px > -T::ONE && py > -T::ONE && px < w && py < h) {
            return None;
        }
        let (fx, fy) = (px.floor(), py.floor());
        Some(Taps { x0: fx.f64() as isize, y0: fy.f64() as isize, lx: px - fx, ly: py - fy })
    }

    /// Positions in the map (`None` outside) and weights, in the order of the formula.
    #[inline(always)]
    fn each(&self, h: usize, w: usize) -> [(Option<usize>, T); 4] {
        let (hx, hy) = (T::ONE - self.lx, T::ONE - self.ly);
        let at = |dy: isize, dx: isize| {
            let (y, x) = (self.y0 + dy, self.x0 + dx);
            let inside = y >= 0 && x >= 0 && y < h as isize && x < w as isize;
            inside.then_some(y as usize * w + x as usize)
        };
        [
            (at(0, 0), hy * hx),
            (at(0, 1), hy * self.lx),
            (at(1, 0), self.ly * hx),
            (at(1, 1), self.ly * self.lx),
        ]
    }
}

impl PointSample {
    /// Writes `values` `[r, p]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a map without pixels.
    pub fn forward<T: Real>(&self, maps: &[T], points: &[T], values: &mut [T]) -> Result<()> {
        check_len("point_sample", "maps", maps, self.r * self.h * self.w)?;
        self.check(points)?;
        check_len("point_sample", "values", values, self.r * self.p)?;
        if dry_run::skip("point_sample") {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::forward(self, f32s(maps), f32s(points), f32s_mut(values));
        } else {
            reference::forward(self, maps, points, values);
        }
        Ok(())
    }

    /// Writes `dmaps` `[r, h, w]` from `dvalues` `[r, p]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a map without pixels.
    pub fn backward<T: Real>(&self, points: &[T], dvalues: &[T], dmaps: &mut [T]) -> Result<()> {
        self.check(points)?;
        check_len("point_sample", "dvalues", dvalues, self.r * self.p)?;
        check_len("point_sample", "dmaps", dmaps, self.r * self.h * self.w)?;
        if dry_run::skip("point_sample") {
            return Ok(());
        }
        if T::IS_F32 {
            cpu::backward(self, f32s(points), f32s(dvalues), f32s_mut(dmaps));
        } else {
            reference::backward(self, points, dvalues, dmaps);
        }
        Ok(())
    }

    fn check<T: Real>(&self, points: &[T]) -> Result<()> {
        check_map("point_sample", self.h, self.w)?;
        let rows = if self.shared { 1 } else { self.r };
        check_len("point_sample", "points", points, rows * self.p * 2)
    }

    /// Points of row `i`, `[p, 2]`.
    fn points_of<'a, T>(&self, points: &'a [T], i: usize) -> &'a [T] {
        let row = if self.shared { 0 } else { i };
        &points[row * self.p * 2..][..self.p * 2]
    }
}

/// Fails for a map that has no pixels, or more than the tap arithmetic can index.
fn check_map(op: &'static str, h: usize, w: usize) -> Result<()> {
    if h == 0 || w == 0 || (h + 2).saturating_mul(w + 2) > i32::MAX as usize {
        return Err(KernelError::Size { op, what: format!("a map cannot be {h} x {w} pixels") });
    }
    Ok(())
}
