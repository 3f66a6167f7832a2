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

mod gpu;
#[cfg(test)]
mod gpu_tests;
pub(crate) mod verify;

use std::cell::RefCell;

use rayon::prelude::*;

use crate::{KernelError, Real, Result, check_len, dry_run};

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

/// Sort key of a candidate: the bits of `|logit|`, which have the order of the values, then its
/// index.
type Key = (u64, u32);

thread_local! {
    static KEYS: RefCell<Vec<Key>> = const { RefCell::new(Vec::new()) };
    static KEYS32: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl UncertainPoints {
    /// Writes `out` `[r, keep + n_rand, 2]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; more points to keep than there are.
    pub fn select<T: Real>(
        &self,
        logits: &[T],
        points: &[T],
        random: &[T],
        out: &mut [T],
    ) -> Result<()> {
        if self.keep > self.n_over || self.n_over > u32::MAX as usize {
            let what = format!("{} of {} points cannot be kept", self.keep, self.n_over);
            return Err(KernelError::Size { op: "uncertain_points", what });
        }
        let row = 2 * (self.keep + self.n_rand);
        check_len("uncertain_points", "logits", logits, self.r * self.n_over)?;
        check_len("uncertain_points", "points", points, self.r * self.n_over * 2)?;
        check_len("uncertain_points", "random", random, self.r * self.n_rand * 2)?;
        check_len("uncertain_points", "out", out, self.r * row)?;
        if dry_run::skip("uncertain_points") {
            return Ok(());
        }
        if row == 0 {
            return Ok(());
        }
        out.par_chunks_mut(row).enumerate().for_each(|(i, out)| {
            let (selected, fresh) = out.split_at_mut(2 * self.keep);
            fresh.copy_from_slice(&random[i * 2 * self.n_rand..][..2 * self.n_rand]);
            if self.keep > 0 {
                let logits = &logits[i * self.n_over..][..self.n_over];
                self.select_row(
                    logits,
                    &points[i * self.n_over * 2..][..self.n_over * 2],
                    selected,
                );
            }
        });
        Ok(())
    }

    fn select_row<T: Real>(&self, logits: &[T], points: &[T], selected: &mut [T]) {
        if T::IS_F32 {
            // Both parts fit in one word, which halves the data that the selection moves.
            KEYS32.with_borrow_mut(|keys| {
                let key = |(j, v): (usize, &f32)| u64::from(v.abs().to_bits()) << 32 | j as u64;
                let logits = crate::f32s(logits);
                select_smallest(
                    keys,
                    self.keep,
                    logits.iter().enumerate().map(key),
                    points,
                    selected,
                );
            });
        } else {
            KEYS.with_borrow_mut(|keys| {
                let key = |(j, v): (usize, &T)| (v.f64().abs().to_bits(), j as u32);
                select_smallest(
                    keys,
                    self.keep,
                    logits.iter().enumerate().map(key),
                    points,
                    selected,
                );
            });
        }
    }
}

/// Copies the points of the `keep` smallest keys to `selected`, in the order of the points.
fn select_smallest<T: Copy, K: Ord + Copy>(
    keys: &mut Vec<K>,
    keep: usize,
    all: impl Iterator<Item = K> + Clone,
    points: &[T],
    selected: &mut [T],
) {
    keys.clear();
    keys.extend(all.clone());
    let (_, &mut last, _) = keys.select_nth_unstable(keep - 1);
    // Keys are distinct, so exactly `keep` of them are not above the last one.
    let chosen = all.zip(points.chunks_exact(2)).filter(|(key, _)| *key <= last);
    for (to, (_, from)) in selected.chunks_exact_mut(2).zip(chosen) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests;
