//! Position codes, which only the host computes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::ops::sine_position::sine_position;

fn operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("small f32");
    group.sample_size(20);
    let mut table = vec![0.0f32; 64 * 64 * 256];
    group.throughput(Throughput::Bytes(4 * table.len() as u64));
    group.bench_function("sine_position, stride 8 of 512 px", |bench| {
        bench.iter(|| sine_position(64, 64, 256, &mut table));
    });
    group.finish();
}

criterion_group!(benches, operations);
criterion_main!(benches);
