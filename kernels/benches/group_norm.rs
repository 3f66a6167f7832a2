//! Group norm of the pixel decoder at 512 px; throughput counts the bytes read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::group_norm::{GroupNorm, Stats};

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("group_norm f32");
    group.sample_size(20);
    for (name, hw) in [("stride-4 map", 128 * 128), ("stride-8 map", 64 * 64)] {
        let s = GroupNorm { b: 1, hw, c: 256, groups: 32, eps: 1e-5 };
        let n = hw * s.c;
        let (x, dy) = (noise::<f32>(n, 1), noise::<f32>(n, 2));
        let (w, bias) = (noise::<f32>(s.c, 3), noise::<f32>(s.c, 4));
        let (mut y, mut mean, mut rstd) = (vec![0.0; n], vec![0.0; 32], vec![0.0; 32]);
        let (mut dx, mut dw, mut db) = (y.clone(), w.clone(), bias.clone());
        group.throughput(Throughput::Bytes(12 * n as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &w, &bias, &mut y, &mut mean, &mut rstd));
        });
        group.throughput(Throughput::Bytes(20 * n as u64));
        group.bench_function(BenchmarkId::new("backward", name), |bench| {
            bench.iter(|| {
                let stats = Stats { mean: &mean, rstd: &rstd };
                let (dx, dw, db) = (Some(&mut dx[..]), Some(&mut dw[..]), Some(&mut db[..]));
                s.backward(&x, &w, stats, &dy, dx, dw, db)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
