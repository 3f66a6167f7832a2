//! Small operations: position codes, class scores, chosen rows.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::class_loss::ClassLoss;
use dressage_kernels::ops::gather_rows::GatherRows;
use dressage_kernels::ops::sine_position::sine_position;

fn operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("small f32");
    group.sample_size(20);
    let mut table = vec![0.0f32; 64 * 64 * 256];
    group.throughput(Throughput::Bytes(4 * table.len() as u64));
    group.bench_function("sine_position, stride 8 of 512 px", |bench| {
        bench.iter(|| sine_position(64, 64, 256, &mut table));
    });
    let loss = ClassLoss { n: 400, k: 20, weight: 2.0 };
    let (logits, targets) = (noise::<f32>(400 * 20, 4), vec![19; 400]);
    let (weights, mut dlogits) = (vec![1.0; 20], vec![0.0; 400 * 20]);
    group.throughput(Throughput::Bytes(8 * 400 * 20));
    group.bench_function("class_loss both ways, batch 4", |bench| {
        bench.iter(|| {
            loss.backward(&logits, &targets, &weights, 1.0, &mut dlogits)?;
            loss.forward(&logits, &targets, &weights)
        });
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("small f32");
    group.sample_size(20);
    let chosen = GatherRows { n: 400, r: 76, c: 256 };
    let x = noise::<f32>(chosen.n * chosen.c, 1);
    let indices: Vec<i32> = (0..chosen.r as i32).map(|i| 5 * i).collect();
    let (mut y, mut dx) = (vec![0.0; chosen.r * chosen.c], vec![0.0; x.len()]);
    group.throughput(Throughput::Bytes(8 * y.len() as u64));
    group.bench_function("gather_rows forward, 76 embeddings", |bench| {
        bench.iter(|| chosen.forward(&x, &indices, &mut y));
    });
    group.throughput(Throughput::Bytes(4 * (y.len() + dx.len()) as u64));
    group.bench_function("gather_rows backward, 76 embeddings", |bench| {
        bench.iter(|| chosen.backward(&indices, &y, &mut dx));
    });
    group.finish();
}

criterion_group!(benches, operations, rows);
criterion_main!(benches);
