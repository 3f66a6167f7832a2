//! Every kernel of a device at sizes of a real network (ViT-L, four images of 512 px).
//!
//! `cargo bench -p dressage-kernels --bench device [-- FILTER]`. Measures on CUDA device 0 with
//! CUDA events and empty caches; without such a device it says so and why. The virtual GPU is not
//! measured: it is hundreds of times slower and its times mean nothing.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use dressage_kernels::Result;
use dressage_kernels::check::timer::Timer;
use dressage_kernels::check::verify::{self, Timed};
use dressage_kernels::device::Device;

fn bench(c: &mut Criterion, watch: &mut Timer<'_>, folder: &str, timed: &mut Timed<'_>) {
    let mut group = c.benchmark_group(folder);
    group.throughput(match timed.flops / timed.bytes.max(1) {
        // More operations per byte than a device does while it moves one: arithmetic is the limit.
        200.. => Throughput::Elements(timed.flops),
        _ => Throughput::Bytes(timed.bytes),
    });
    let name = format!("{} {}", timed.name, timed.shape);
    group.bench_function(name, |b| {
        b.iter_custom(|runs| {
            let seconds = (0..runs).map(|_| watch.once(timed));
            Duration::from_secs_f64(seconds.sum::<Result<f64>>().expect("the kernel runs"))
        });
    });
    group.finish();
}

fn all(c: &mut Criterion, device: &Device) -> Result<()> {
    let mut watch = Timer::new(device)?;
    for kernels in verify::all() {
        for timed in &mut (kernels.timed)(device)? {
            bench(c, &mut watch, kernels.name, timed);
        }
        device.trim()?;
    }
    Ok(())
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    match Device::cuda(0) {
        Ok(device) => all(&mut criterion, &device).expect("the device works"),
        Err(error) => println!("nothing to measure on: {error}"),
    }
    criterion.final_summary();
}
