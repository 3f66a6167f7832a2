//! Times of launches on a device, and the limits to compare them with.

use crate::Result;
use crate::Write;
use crate::check::noise;
use crate::check::roofline::Roofline;
use crate::check::verify::Timed;
use crate::device::{Buffer, Device, Float};
use crate::ops::matmul::MatMul;
use crate::ops::reduce;

/// Values that are read between two runs: 256 MiB, more than any L2 cache. A run then finds none of
/// its operands there, as in a training step, where all other work comes between two uses.
const FLUSH: usize = 64 << 20;

/// Runs before those that count: the first loads the module and fills the pool.
const WARM: usize = 3;

/// Runs for each limit; the best counts.
const RUNS: usize = 5;

/// Bytes copied to measure the limit of the memory.
const COPIED: usize = 1 << 30;

/// Side of the matrices that measure the limit of arithmetic.
const SIDE: usize = 8192;

/// Times launches on one device.
#[derive(Debug)]
pub struct Timer<'a> {
    device: &'a Device,
    /// `None` on a virtual device or in a dry run, which have no caches.
    flush: Option<Flush>,
}

/// Empties the caches of a device by reading. Written lines would be written back while the next
/// kernel is timed; for 50 MB that takes longer than most kernels do. The sum leaves about 16 KB of
/// them.
#[derive(Debug)]
struct Flush {
    read: Buffer<f32>,
    sum: Buffer<f32>,
}

impl Flush {
    fn new(device: &Device, len: usize) -> Result<Flush> {
        Ok(Flush { read: device.zeros("timer", len)?, sum: device.zeros("timer.sum", 1)? })
    }

    fn run(&mut self, device: &Device) -> Result<()> {
        reduce::sum_gpu(device, self.read.view(), self.sum.view_mut())
    }
}

impl<'a> Timer<'a> {
    /// Creates a timer for launches on `device`.
    ///
    /// # Errors
    /// No room for the buffers that empty the caches.
    pub fn new(device: &'a Device) -> Result<Timer<'a>> {
        let real = device.work().is_none() && !device.is_dry_run();
        let flush = if real { Some(Flush::new(device, FLUSH)?) } else { None };
        Ok(Timer { device, flush })
    }

    /// Seconds of one run with empty caches.
    ///
    /// # Errors
    /// A failure of the launches.
    pub fn once(&mut self, timed: &mut Timed<'_>) -> Result<f64> {
        if let Some(flush) = &mut self.flush {
            // Queued before the timed work and not counted; while it runs, the host queues the
            // timed work.
            flush.run(self.device)?;
        }
        self.device.time(&mut timed.run)
    }

    /// Seconds of each of `runs` runs, after a few that do not count.
    ///
    /// # Errors
    /// A failure of the launches.
    pub fn runs(&mut self, timed: &mut Timed<'_>, runs: usize) -> Result<Vec<f64>> {
        for _ in 0..WARM {
            self.once(timed)?;
        }
        (0..runs).map(|_| self.once(timed)).collect()
    }
}

/// Limits of a real device: of a product in bf16 with f32 sums, and of a copy within its memory.
/// Takes about 2.5 GB of its memory meanwhile.
///
/// # Errors
/// No room; a failure of the device.
pub fn roofline(device: &Device) -> Result<Roofline> {
    Ok(Roofline { gflops: product(device, SIDE)?, gbytes: copy(device, COPIED)? })
}

/// 10^9 bytes per second of a copy, read and written bytes together.
fn copy(device: &Device, bytes: usize) -> Result<f64> {
    let from = device.zeros::<u8>("from", bytes)?;
    let mut to = device.alloc::<u8>("to", bytes)?;
    let seconds = best(device, || device.copy(from.view(), to.view_mut()))?;
    Ok(2.0 * bytes as f64 / seconds * 1e-9)
}

/// 10^9 operations per second of a square product.
fn product(device: &Device, side: usize) -> Result<f64> {
    // Random values: zeros need less power, so clocks would be higher than in any real work.
    let values: Vec<half::bf16> = noise(side * side, 1).into_iter().map(Float::of).collect();
    let (a, b) = (device.upload("a", &values)?, device.upload("b", &values)?);
    let mut c = device.alloc::<half::bf16>("c", side * side)?;
    let sizes = MatMul::new(side, side, side).trans_b();
    let seconds =
        best(device, || device.matmul(&sizes, 1.0, a.view(), b.view(), Write::Over, c.view_mut()))?;
    Ok(2.0 * (side as f64).powi(3) / seconds * 1e-9)
}

fn best(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for run in 0..WARM + RUNS {
        let seconds = device.time(&mut work)?;
        if run >= WARM {
            best = best.min(seconds);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::verify::filled;

    #[test]
    fn runs_are_counted_and_timed() {
        let device = Device::virtual_gpu();
        let x = filled::<f32>(&device, "x", 100, 1).unwrap();
        let mut y = device.alloc::<f32>("y", 100).unwrap();
        let run = || crate::ops::add::scale_gpu(&device, 2.0, x.view(), y.view_mut());
        let mut timed = Timed::new("scale_f32_f32", "[100]", 100, 800, run);
        let seconds = Timer::new(&device).unwrap().runs(&mut timed, 4).unwrap();
        assert_eq!(device.counters().launches, (WARM + 4) as u64);
        assert_eq!(seconds.len(), 4);
        assert!(seconds.iter().all(|s| *s > 0.0 && s.is_finite()));
    }

    #[test]
    fn caches_are_emptied_by_reads_alone() {
        let device = Device::virtual_gpu();
        let mut flush = Flush::new(&device, 1 << 18).unwrap();
        let before = device.work().unwrap();
        device.restart_trace();
        flush.run(&device).unwrap();
        let counts = device.trace().unwrap().total();
        assert_eq!((counts.copies, counts.uploads), (0, 0), "nothing is filled or copied");
        let moved = device.work().unwrap().global_bytes - before.global_bytes;
        let read = 4 << 18;
        // In addition to the input: partial sums of 16,384 values each, written and then read.
        assert!((read..read + 1024).contains(&moved), "{moved} bytes for {read}");
    }

    #[test]
    fn limits_come_from_work_that_was_done() {
        let device = Device::virtual_gpu();
        assert!(copy(&device, 1 << 16).unwrap() > 0.0);
        assert!(product(&device, 16).unwrap() > 0.0);
        assert_eq!(device.counters().products, (WARM + RUNS) as u64);
    }
}
