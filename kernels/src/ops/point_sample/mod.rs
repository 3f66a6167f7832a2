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
//! Shapes: maps `[r, h, w]`; points `[sets, p, 2]`, each set read by as many maps; values `[r, p]`.
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

mod checks;
mod cpu;
mod gpu;
mod labels;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use checks::timed;
pub use gpu::LabelRows;
pub use labels::LabelSample;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Real, Result};

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
    /// Sets of points, each read by `r / sets` consecutive maps: those of an image. `r` if each map
    /// has its own, 1 if all share them.
    pub sets: usize,
}

impl Operation for PointSample {
    const NAME: &'static str = "point_sample";

    fn check(&self) -> Result<()> {
        check_map(Self::NAME, self.h, self.w)?;
        if !self.r.is_multiple_of(self.sets) {
            let what = format!("{} sets of points for {} maps", self.sets, self.r);
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.r == 0
    }
}

impl PointSample {
    /// Maps that read the same points.
    fn of_set(&self) -> usize {
        self.r / self.sets.max(1)
    }
}

/// Call that writes `values`. Points and values are f32 on a device.
#[derive(Default)]
pub struct Forward<'a, M: Memory, T: Element> {
    /// Maps, `[r, h, w]`.
    pub maps: M::In<'a, T>,
    /// Points (x, y), `[sets, p, 2]`.
    pub points: M::In<'a, M::Sum<T>>,
    /// Values at the points, `[r, p]`.
    pub values: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Forward<'a, M, T> {
    type Op = PointSample;

    fn list(&mut self, s: &PointSample, w: &mut impl Walk<'a, M>) {
        w.reads("maps", &mut self.maps, s.r * s.h * s.w);
        w.reads("points", &mut self.points, s.sets * s.p * 2);
        w.writes("values", &mut self.values, s.r * s.p);
    }
}

/// Call that writes `dmaps`. On a device it takes three launches and 8 bytes of scratch memory per
/// pixel, and refuses 2^20 points per map or more.
#[derive(Default)]
pub struct Backward<'a, M: Memory, T: Element> {
    /// Points (x, y), `[sets, p, 2]`.
    pub points: M::In<'a, M::Sum<T>>,
    /// Incoming gradient, `[r, p]`.
    pub dvalues: M::In<'a, M::Sum<T>>,
    /// Gradient of the maps, `[r, h, w]`.
    pub dmaps: M::Out<'a, T>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Backward<'a, M, T> {
    type Op = PointSample;

    fn list(&mut self, s: &PointSample, w: &mut impl Walk<'a, M>) {
        w.reads("points", &mut self.points, s.sets * s.p * 2);
        w.reads("dvalues", &mut self.dvalues, s.r * s.p);
        w.writes("dmaps", &mut self.dmaps, s.r * s.h * s.w);
    }
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

/// Fails for a map that has no pixels, or more than the tap arithmetic can index.
fn check_map(op: &'static str, h: usize, w: usize) -> Result<()> {
    if h == 0 || w == 0 || (h + 2).saturating_mul(w + 2) > i32::MAX as usize {
        return Err(KernelError::Size { op, what: format!("a map cannot be {h} x {w} pixels") });
    }
    Ok(())
}
