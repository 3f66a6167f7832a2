//! One optimiser update of tensors at the sizes that are trained, and the reductions over them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::adamw::AdamW;
use dressage_kernels::ops::reduce::{all_finite, column_sums, sum};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("adamw");
    for (name, n) in [("FFN weight 2048 x 256", 2048 * 256), ("decode head", 20_579_796)] {
        let (mut p, g) = (noise::<f32>(n, 1), noise::<f32>(n, 2));
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let s = AdamW::default();
        group.throughput(Throughput::Bytes(28 * n as u64));
        group.bench_function(name, |b| {
            b.iter(|| s.update(7, &mut p, &mut m, &mut v, black_box(&g)).expect("lengths fit"));
        });
    }
    let (rows, channels) = (4 * 5376, 256);
    let x = noise::<f32>(rows * channels, 3);
    let mut out = vec![0.0; channels];
    group.throughput(Throughput::Bytes(4 * x.len() as u64));
    group.bench_function("bias gradient of 4 x 5376 tokens", |b| {
        b.iter(|| column_sums(black_box(&x), rows, &mut out).expect("lengths fit"));
    });
    group.bench_function("sum of 4 x 5376 tokens", |b| b.iter(|| sum(black_box(&x))));
    group.bench_function("search for NaN in 4 x 5376 tokens", |b| {
        b.iter(|| all_finite(black_box(&x)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
