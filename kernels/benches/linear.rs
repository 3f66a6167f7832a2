//! Linear layers of ViT-S, ViT-B and ViT-L at 512 px; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::linear::Linear;

const CASES: [(&str, Linear); 4] = [
    ("ViT-S MLP up", Linear { n: 1025, m: 1536, k: 384 }),
    ("ViT-B qkv", Linear { n: 1025, m: 2304, k: 768 }),
    ("ViT-L MLP up", Linear { n: 1025, m: 4096, k: 1024 }),
    ("pixel decoder FFN", Linear { n: 5376, m: 1024, k: 256 }),
];

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear f32");
    group.sample_size(10);
    for (name, s) in CASES {
        let (x, w) = (noise::<f32>(s.n * s.k, 1), noise::<f32>(s.m * s.k, 2));
        let (bias, dy) = (noise::<f32>(s.m, 3), noise::<f32>(s.n * s.m, 4));
        let mut y = vec![0.0; s.n * s.m];
        let (mut dx, mut dw, mut db) = (x.clone(), w.clone(), bias.clone());
        group.throughput(Throughput::Elements((s.n * s.m * s.k) as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &w, Some(&bias), &mut y));
        });
        group.bench_function(BenchmarkId::new("backward, frozen", name), |bench| {
            bench.iter(|| s.backward(None, &w, &dy, Some(&mut dx), None, None));
        });
        group.bench_function(BenchmarkId::new("backward, weight and bias", name), |bench| {
            bench.iter(|| s.backward(Some(&x), &w, &dy, None, Some(&mut dw), Some(&mut db)));
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
