//! Residual connections with layer scale at 512 px; throughput counts the bytes read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::residual::Residual;

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("residual f32");
    group.sample_size(20);
    for (name, width) in [("ViT-S", 384), ("ViT-B", 768), ("ViT-L", 1024)] {
        let s = Residual { n: 1025, c: width };
        let n = s.n * s.c;
        let (x, r, gamma) = (noise::<f32>(n, 1), noise::<f32>(n, 2), noise::<f32>(width, 3));
        let (mut y, mut dgamma) = (vec![0.0; n], vec![0.0; width]);
        group.throughput(Throughput::Bytes(12 * n as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &r, Some(&gamma), &mut y));
        });
        group.throughput(Throughput::Bytes(8 * n as u64));
        group.bench_function(BenchmarkId::new("dr", name), |bench| {
            bench.iter(|| s.backward(None, Some(&gamma), &x, Some(&mut y), None));
        });
        group.bench_function(BenchmarkId::new("dgamma", name), |bench| {
            bench.iter(|| s.backward(Some(&r), Some(&gamma), &x, None, Some(&mut dgamma)));
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
