//! Activations on MLP hidden layers at 512 px; throughput counts the bytes read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::activation::Activation;

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation f32");
    group.sample_size(20);
    for (name, n) in [("ViT-S", 1025 * 1536), ("ViT-L", 1025 * 4096)] {
        let x: Vec<f32> = noise::<f32>(n, 1).iter().map(|v| 4.0 * v).collect();
        let dy = noise::<f32>(n, 2);
        let mut out = vec![0.0; n];
        for f in [Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
            group.throughput(Throughput::Bytes(8 * n as u64));
            group.bench_function(BenchmarkId::new(format!("{f:?} forward"), name), |bench| {
                bench.iter(|| f.forward(&x, &mut out));
            });
            group.throughput(Throughput::Bytes(12 * n as u64));
            group.bench_function(BenchmarkId::new(format!("{f:?} backward"), name), |bench| {
                bench.iter(|| f.backward(&x, &dy, &mut out));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
