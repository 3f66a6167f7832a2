//! Broadcasting addition and its column sums; throughput counts the bytes read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::Write;
use dressage_kernels::check::noise;
use dressage_kernels::ops::add::Add;

const CASES: [(&str, Add); 3] = [
    ("ViT-L position table, 2 images", Add { n: 2, inner: 1025 * 1024 }),
    ("pixel decoder level embedding", Add { n: 2 * 5376, inner: 256 }),
    ("ViT-L bias of the MLP", Add { n: 1025, inner: 4096 }),
];

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("add f32");
    group.sample_size(20);
    for (name, s) in CASES {
        let n = s.n * s.inner;
        let (a, b) = (noise::<f32>(n, 1), noise::<f32>(s.inner, 2));
        let (mut y, mut db) = (vec![0.0; n], vec![0.0; s.inner]);
        group.throughput(Throughput::Bytes(8 * n as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&a, &b, &mut y));
        });
        group.throughput(Throughput::Bytes(4 * n as u64));
        group.bench_function(BenchmarkId::new("db", name), |bench| {
            bench.iter(|| s.backward_b(&a, Write::Add, &mut db));
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
