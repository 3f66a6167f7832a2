//! Selection of the points of a mask with the most uncertain logits.
//!
//! Each row has `n_over` random points. The `keep` points with the smallest `|logit|` are kept, and
//! `n_rand` new random points are appended:
//! ```text
//! out[i] = points[i, j : (|logit[i, j]|, j) among the keep smallest], random[i]
//! ```
//! Ties go to the lower index, and kept points stay in order, so the result does not depend on the
//! selection algorithm. A NaN logit counts as most certain. No gradient.
//!
//! Shapes: logits `[r, n_over]`, points `[r, n_over, 2]`, random `[r, n_rand, 2]`, output
//! `[r, keep + n_rand, 2]`.
//! At the size of the recipe n_over = 37632, keep = 9408, n_rand = 3136. Cost: one linear-time
//! selection per row.
//!
//! On a GPU: four images with 19 classes each are 76 rows. They read 11 MB of logits once from
//! memory and four more times from the caches, and read and write 8 MB of selected and new points:
//! 27 MB, 6 us on an H200 (4.3 TB/s), with one or two comparisons per logit. A block of 512 threads
//! handles one row. It finds the threshold by a radix select with 8 bits per round; the result is
//! bitwise equal to the CPU's.
//!
//! Source: spec mask2former §4.4.

mod checks;
mod cpu;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use checks::timed;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;
use crate::{KernelError, Result};

/// Sizes of a selection of uncertain points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UncertainPoints {
    /// Rows: one per matched pair.
    pub r: usize,
    /// Candidates per row.
    pub n_over: usize,
    /// Candidates kept.
    pub keep: usize,
    /// Random points appended.
    pub n_rand: usize,
}

impl Operation for UncertainPoints {
    const NAME: &'static str = "uncertain_points";

    fn check(&self) -> Result<()> {
        if self.keep > self.n_over || self.n_over > u32::MAX as usize {
            let what = format!("{} of {} points cannot be kept", self.keep, self.n_over);
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.row() == 0
    }
}

impl UncertainPoints {
    /// Numbers in a row of the output.
    fn row(&self) -> usize {
        2 * (self.keep + self.n_rand)
    }
}

/// Call that writes `out`, with the same bits on the host and on a device. All operands are f32 on
/// a device.
#[derive(Default)]
pub struct Select<'a, M: Memory, T: Element> {
    /// Logits of the candidates, `[r, n_over]`.
    pub logits: M::In<'a, M::Sum<T>>,
    /// Candidates, `[r, n_over, 2]`.
    pub points: M::In<'a, M::Sum<T>>,
    /// Points to append, `[r, n_rand, 2]`.
    pub random: M::In<'a, M::Sum<T>>,
    /// Chosen points, `[r, keep + n_rand, 2]`.
    pub out: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Select<'a, M, T> {
    type Op = UncertainPoints;

    fn list(&mut self, s: &UncertainPoints, w: &mut impl Walk<'a, M>) {
        w.reads("logits", &mut self.logits, s.r * s.n_over);
        w.reads("points", &mut self.points, s.r * s.n_over * 2);
        w.reads("random", &mut self.random, s.r * s.n_rand * 2);
        w.writes("out", &mut self.out, s.r * s.row());
    }
}
