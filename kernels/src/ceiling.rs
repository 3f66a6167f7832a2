//! The limits of this machine, measured: what the speed of a kernel is held against.
//!
//! Both figures are the best of a few short runs on all threads of the current pool at once, since
//! cores share power and memory. They are what a loop without any other work reaches, not what a
//! data sheet says.

use std::time::{Duration, Instant};

use crate::simd;
use crate::simd::{LANES, Level, madd};

/// Runs of which the best counts.
const RUNS: usize = 5;

/// Length of a run of arithmetic.
const RUN: Duration = Duration::from_millis(40);

/// Elements that are copied: twice this is beyond any cache.
const COPIED: usize = 1 << 25;

/// What the threads of the pool reach together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// 10^9 floating-point operations a second in f32: multiply-adds on registers, each counting
    /// as two.
    pub gflops: f64,
    /// 10^9 bytes a second that a copy moves, those read and those written.
    pub gbytes: f64,
}

/// Measures for about half a second.
pub fn measure() -> Ceiling {
    let gflops = (0..RUNS).map(|_| arithmetic()).fold(0.0, f64::max);
    let (x, mut y) = (vec![1.0f32; COPIED], vec![0.0f32; COPIED]);
    let gbytes = (0..RUNS).map(|_| copy(&x, &mut y)).fold(0.0, f64::max);
    Ceiling { gflops, gbytes }
}

/// One run on all threads: operations of all over the time of the slowest.
fn arithmetic() -> f64 {
    let runs = rayon::broadcast(|_| {
        let (start, mut operations) = (Instant::now(), 0u64);
        while start.elapsed() < RUN {
            operations += std::hint::black_box(turns(1 << 14));
        }
        (operations, start.elapsed().as_secs_f64())
    });
    let operations: u64 = runs.iter().map(|(n, _)| n).sum();
    let slowest = runs.iter().map(|(_, s)| *s).fold(0.0, f64::max);
    operations as f64 / slowest * 1e-9
}

/// Operations done in `n` turns of a loop on registers.
fn turns(n: u64) -> u64 {
    let operands = std::hint::black_box([0.999_9f32, 1e-4]);
    // As many independent sums as hide the latency of a multiply-add and fit the registers.
    match simd::level() {
        Level::Avx512 => spin_wide(n, operands),
        Level::Avx2 | Level::Portable => spin_narrow(n, operands),
    }
}

simd! {
    fn spin_wide<FMA>(n: u64, operands: [f32; 2]) -> u64 {
        spin::<FMA, 12>(n, operands)
    }

    fn spin_narrow<FMA>(n: u64, operands: [f32; 2]) -> u64 {
        spin::<FMA, 5>(n, operands)
    }
}

#[inline(always)]
fn spin<const FMA: bool, const R: usize>(n: u64, [factor, step]: [f32; 2]) -> u64 {
    let mut sums = [[0.5f32; LANES]; R];
    for _ in 0..n {
        for sum in &mut sums {
            for s in sum {
                *s = madd::<FMA>(*s, factor, step);
            }
        }
    }
    std::hint::black_box(sums);
    n * (2 * R * LANES) as u64
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
    std::hint::black_box(y);
    2.0 * size_of_val(x) as f64 / seconds * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_done() {
        assert_eq!(spin::<false, 3>(10, [1.0, 0.0]), 10 * 2 * 3 * 16);
        let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let mut y = vec![0.0; 1000];
        assert!(copy(&x, &mut y) > 0.0);
        assert_eq!(x, y);
        assert!(arithmetic().is_finite());
    }
}
