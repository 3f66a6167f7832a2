//! Measured limits of this machine, with which the speed of a kernel is compared.
//!
//! Both figures are the best of a few short runs on all threads of the current pool at once, since
//! cores share power and memory. They are the speed of a loop without any other work, not the
//! figures of a data sheet.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::cpu::simd;
use crate::ops::matmul::{self, Shape, TILE, shape};

/// Runs for each figure; the best counts.
const RUNS: usize = 5;

/// Length of a run of arithmetic.
const RUN: Duration = Duration::from_millis(40);

/// Depth of the tile: its operands take 7 and 16 KiB.
const DEPTH: usize = 128;

/// Tiles between two readings of the clock.
const TURNS: usize = 64;

/// Elements copied: twice this is larger than any cache.
const COPIED: usize = 1 << 25;

/// Limits of all threads of the pool together, or of a GPU (see [`crate::check::timer::roofline`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// 10^9 floating-point operations per second; a multiply-add counts as two. On a CPU they are
    /// those of a register tile in f32, on a GPU those of a large product in bf16.
    pub gflops: f64,
    /// 10^9 bytes per second that a copy moves, read and written bytes together.
    pub gbytes: f64,
}

/// Measures both limits in about half a second.
pub fn measure() -> Roofline {
    let gflops = (0..RUNS).map(|_| arithmetic()).fold(0.0, f64::max);
    let (x, mut y) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
    let gbytes = (0..RUNS).map(|_| copy(&x, &mut y)).fold(0.0, f64::max);
    Roofline { gflops, gbytes }
}

/// Rate of one run on all threads: total operations over the time of the slowest thread.
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

/// Multiplies register tiles with operands in L1 and returns the operations. No other arithmetic
/// here is faster.
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

/// Rate of one copy on all threads.
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
