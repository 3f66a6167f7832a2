//! Operations of the host in f32 at sizes of real networks; throughput counts the bytes that they
//! must move, or operations where these are the limit.
//!
//! `cargo bench -p dressage-kernels --bench host [-- FILTER]`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::verify::cpu;

fn all(c: &mut Criterion) {
    for (folder, timed) in cpu::timed() {
        let mut group = c.benchmark_group(folder);
        group.sample_size(20);
        for mut timed in timed().expect("sizes that fit") {
            group.throughput(match timed.flops / timed.bytes.max(1) {
                200.. => Throughput::Elements(timed.flops),
                _ => Throughput::Bytes(timed.bytes),
            });
            let name = format!("{}, {}", timed.name, timed.shape);
            group.bench_function(name, |bench| bench.iter(|| (timed.run)()));
        }
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
