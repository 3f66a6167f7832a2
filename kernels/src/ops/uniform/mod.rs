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

mod checks;
mod gpu;
mod philox;
mod reference;

pub use philox::{Philox, hash_name};

pub(super) use philox::Stream;

use crate::call::{Memory, Operands, Operation, Walk};
use crate::device::Element;

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

impl Operation for Uniform {
    const NAME: &'static str = "uniform";

    fn is_empty(&self) -> bool {
        self.streams * self.rows * self.draws == 0
    }
}

/// Call that writes `out`.
#[derive(Default)]
pub struct Fill<'a, M: Memory, T: Element> {
    /// Low 32 bits of the step, `[1]`.
    pub step: M::In<'a, i32>,
    /// Table of rows, `[rows]`; left out: row `i` is `i`.
    pub rows: Option<M::In<'a, i32>>,
    /// Draws, `[streams, rows, draws]`, f32 on a device.
    pub out: M::Out<'a, M::Sum<T>>,
}

impl<'a, M: Memory, T: Element> Operands<'a, M> for Fill<'a, M, T> {
    type Op = Uniform;

    fn list(&mut self, s: &Uniform, w: &mut impl Walk<'a, M>) {
        w.reads("step", &mut self.step, 1);
        w.reads_if("rows", &mut self.rows, s.rows);
        w.writes("out", &mut self.out, s.streams * s.rows * s.draws);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, Gpu, Host, Launch};
    use crate::device::Device;

    #[test]
    fn rows_are_parts_of_one_stream() {
        let s = Uniform { seed: 3, purpose: 7, first: 5, streams: 2, rows: 3, draws: 7 };
        let mut all = [0.0; 42];
        Fill::<Host, f32> { step: &[11], rows: None, out: &mut all }.run(&s).unwrap();
        for stream in 0..2 {
            let mut r = Philox::new(3, 7, 5 + stream as u64, 11);
            let want: Vec<f32> = (0..21).map(|_| r.uniform_f32()).collect();
            assert_eq!(all[21 * stream..][..21], want);
        }
        let mut spread = [0.5; 42];
        let rows = Some(&[2, -1, 0][..]);
        Fill::<Host, f32> { step: &[11], rows, out: &mut spread }.run(&s).unwrap();
        for stream in 0..2 {
            let (got, all) = (&spread[21 * stream..][..21], &all[21 * stream..][..21]);
            assert_eq!(
                (&got[..7], &got[7..14], &got[14..]),
                (&all[14..], &[0.0; 7][..], &all[..7])
            );
        }
    }

    #[test]
    fn nothing_to_draw_is_no_launch() {
        let device = Device::virtual_gpu();
        let s = Uniform { seed: 1, purpose: 2, first: 3, streams: 2, rows: 0, draws: 4 };
        let step = device.upload("step", &[0]).unwrap();
        let mut out = device.alloc("out", 0).unwrap();
        let c = Fill::<Gpu, f32> { step: step.view(), rows: None, out: out.view_mut() };
        c.launch(&device, &s).unwrap();
        assert_eq!(device.counters().launches, 0);
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
