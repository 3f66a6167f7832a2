//! Uniform random numbers from a counter-based generator, for many rows at once. Results on the
//! host and on a device are bitwise equal.
//!
//! ```text
//! out[s, i, d] = draw number (row(i) n + d) of the stream (seed, purpose, first + s, step)
//! ```
//! Each row has `n` draws. `row(i)` is `i` or is taken from a table, where a negative entry pads
//! with zeros. A draw is the upper 24 bits of a word of [`Philox`], times 2^-24: in [0, 1).
//!
//! The table is for rows that are not contiguous on a device, with padding between them, but must
//! get the same numbers as contiguous rows. The step is read from device memory: the same launch,
//! repeated, draws new numbers once the step was written.
//!
//! On a GPU: the candidates of 76 pairs are 76 x 37632 points, 23 MB to write in f32. The lower
//! bound on an H200 (4.3 TB/s) is 5 us; about 25 integer operations per draw take as long again. A
//! thread computes a block of four draws and stores those that belong to the row.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

mod gpu;
#[cfg(test)]
mod gpu_tests;
mod philox;
pub(crate) mod verify;

pub use philox::{Philox, hash_name};

use crate::{Result, check_len};

/// Streams and sizes of the draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uniform {
    /// Seed of the run.
    pub seed: u64,
    /// Purpose of the numbers: a constant of the caller.
    pub purpose: u32,
    /// Sample of the first stream.
    pub first: u64,
    /// Number of streams, one per consecutive sample.
    pub streams: usize,
    /// Rows per stream.
    pub rows: usize,
    /// Draws per row.
    pub draws: usize,
}

impl Uniform {
    /// Writes `out` `[streams, rows, draws]` for a step; `rows` `[rows]` is the table of rows.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes.
    pub fn fill(&self, step: u64, rows: Option<&[i32]>, out: &mut [f32]) -> Result<()> {
        check_len("uniform", "out", out, self.streams * self.rows * self.draws)?;
        if let Some(rows) = rows {
            check_len("uniform", "rows", rows, self.rows)?;
        }
        for (i, out) in out.chunks_exact_mut(self.draws.max(1)).enumerate() {
            let (stream, i) = (i / self.rows, i % self.rows);
            let row = rows.map_or(i as i64, |rows| i64::from(rows[i]));
            let Ok(row) = u64::try_from(row) else {
                out.fill(0.0);
                continue;
            };
            let mut r = Philox::new(self.seed, self.purpose, self.first + stream as u64, step);
            r.skip(row * self.draws as u64);
            out.fill_with(|| r.uniform_f32());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_parts_of_one_stream() {
        let s = Uniform { seed: 3, purpose: 7, first: 5, streams: 2, rows: 3, draws: 7 };
        let mut all = [0.0; 42];
        s.fill(11, None, &mut all).unwrap();
        for stream in 0..2 {
            let mut r = Philox::new(3, 7, 5 + stream as u64, 11);
            let want: Vec<f32> = (0..21).map(|_| r.uniform_f32()).collect();
            assert_eq!(all[21 * stream..][..21], want);
        }
        let mut spread = [0.5; 42];
        s.fill(11, Some(&[2, -1, 0]), &mut spread).unwrap();
        for stream in 0..2 {
            let (got, all) = (&spread[21 * stream..][..21], &all[21 * stream..][..21]);
            assert_eq!(
                (&got[..7], &got[7..14], &got[14..]),
                (&all[14..], &[0.0; 7][..], &all[..7])
            );
        }
        let error = s.fill(0, Some(&[0]), &mut all).unwrap_err();
        assert_eq!(error.to_string(), "uniform: rows has 1 elements, its sizes require 3");
    }

    #[test]
    fn skipping_is_drawing_and_forgetting() {
        for n in [0, 1, 3, 4, 6, 1001] {
            let (mut slow, mut fast) = (Philox::new(1, 2, 3, 4), Philox::new(1, 2, 3, 4));
            for _ in 0..n {
                slow.next_u32();
            }
            fast.skip(n);
            assert_eq!(slow.next_u32(), fast.next_u32(), "{n}");
        }
    }
}
