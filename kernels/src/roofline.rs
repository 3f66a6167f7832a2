//! The limits of this machine, measured: what the speed of a kernel is held against.
//!
//! Both figures are the best of a few short runs on all threads of the current pool at once, since
//! cores share power and memory. They are what a loop without any other work reaches, not what a
//! data sheet says.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::matmul::{self, Shape, TILE, shape};
use crate::simd;

/// Runs of which the best counts.
const RUNS: usize = 5;

/// Length of a run of arithmetic.
const RUN: Duration = Duration::from_millis(40);

/// Depth of the tile: 7 and 16 KiB of operands.
const DEPTH: usize = 128;

/// Tiles between two looks at the clock.
const TURNS: usize = 64;

/// Elements that are copied: twice this is beyond any cache.
const COPIED: usize = 1 << 25;

/// What the threads of the pool reach together, or a GPU (see [`crate::timer::roofline`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// 10^9 floating-point operations a second, a multiply-add counting as two: of a register tile
    /// in f32, on a GPU of a large product in bf16.
    pub gflops: f64,
    /// 10^9 bytes a second that a copy moves, those read and those written.
    pub gbytes: f64,
}

/// Measures for about half a second.
pub fn measure() -> Roofline {
    let gflops = (0..RUNS).map(|_| arithmetic()).fold(0.0, f64::max);
    let (x, mut y) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
    let gbytes = (0..RUNS).map(|_| copy(&x, &mut y)).fold(0.0, f64::max);
    Roofline { gflops, gbytes }
}

/// One run on all threads: operations of all over the time of the slowest.
fn arithmetic() -> f64 {
    let runs = rayon::broadcast(|_| {
        let (start, mut operations) = (Instant::now(), 0u64);
        while start.elapsed() < RUN {
            operations += tile();
        }
        (operations, start.elapsed().as_secs_f64())
    });
    let operations: u64 = runs.iter().map(|(n, _)| n).sum();
    let slowest = runs.iter().map(|(_, s)| *s).fold(0.0, f64::max);
    operations as f64 / slowest * 1e-9
}

/// Operations of a register tile, the fastest arithmetic there is here, on operands in L1.
fn tile() -> u64 {
    let level = simd::level();
    let Shape { rows, columns } = shape(level);
    let (strip, panel) = ([1.0; 14 * DEPTH], [0.5; 32 * DEPTH]);
    let (strip, panel) = (&strip[..rows * DEPTH], &panel[..columns * DEPTH]);
    let mut sums = [0.0; TILE];
    for _ in 0..TURNS {
        matmul::tile(level, rows, black_box(strip), black_box(panel), &mut sums);
        black_box(&mut sums);
    }
    (TURNS * 2 * rows * columns * DEPTH) as u64
}

/// One copy on all threads.
fn copy(x: &[f32], y: &mut [f32]) -> f64 {
    let piece = x.len().div_ceil(rayon::current_num_threads());
    let start = Instant::now();
    rayon::scope(|scope| {
        for (x, y) in x.chunks(piece).zip(y.chunks_mut(piece)) {
            scope.spawn(move |_| y.copy_from_slice(x));
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    black_box(y);
    2.0 * size_of_val(x) as f64 / seconds * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_done() {
        let Shape { rows, columns } = shape(simd::level());
        assert_eq!(tile(), (64 * 2 * 128 * rows * columns) as u64);
        let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let mut y = vec![0.0; 1000];
        assert!(copy(&x, &mut y) > 0.0);
        assert_eq!(x, y);
        assert!(arithmetic().is_finite());
    }
}
