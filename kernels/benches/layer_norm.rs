//! Layer norm of the tokens of a 512 px image; throughput counts the bytes read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::Write;
use dressage_kernels::check::noise;
use dressage_kernels::ops::layer_norm::{LayerNorm, Stats};

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("layer_norm f32");
    group.sample_size(20);
    for (name, n, width) in [("ViT-S", 1025, 384), ("ViT-L", 1025, 1024), ("encoder", 5376, 256)] {
        let s = LayerNorm { n, c: width, eps: 1e-6 };
        let (x, dy) = (noise::<f32>(n * width, 1), noise::<f32>(n * width, 2));
        let (w, b) = (noise::<f32>(width, 3), noise::<f32>(width, 4));
        let (mut y, mut mean, mut rstd) = (vec![0.0; n * width], vec![0.0; n], vec![0.0; n]);
        group.throughput(Throughput::Bytes(8 * (n * width) as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &w, &b, &mut y, &mut mean, &mut rstd));
        });
        let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
        group.throughput(Throughput::Bytes(12 * (n * width) as u64));
        group.bench_function(BenchmarkId::new("backward, frozen", name), |bench| {
            bench.iter(|| {
                let stats = Stats { mean: &mean, rstd: &rstd };
                s.backward(&x, &w, stats, &dy, Some((&mut y, Write::Over)), None, None)
            });
        });
        group.bench_function(BenchmarkId::new("backward, trained", name), |bench| {
            bench.iter(|| {
                let stats = Stats { mean: &mean, rstd: &rstd };
                let (dw, db) = (Some(&mut dw[..]), Some(&mut db[..]));
                s.backward(&x, &w, stats, &dy, Some((&mut y, Write::Over)), dw, db)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
