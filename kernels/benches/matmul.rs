//! Products at the sizes of the networks; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::Write;
use dressage_kernels::check::noise;
use dressage_kernels::ops::matmul::MatMul;

fn products(c: &mut Criterion) {
    let cases = [
        ("ViT-L MLP up, weight transposed", MatMul::new(1025, 4096, 1024).trans_b()),
        ("ViT-L MLP down, weight transposed", MatMul::new(1025, 1024, 4096).trans_b()),
        ("ViT-S MLP up, weight transposed", MatMul::new(1025, 1536, 384).trans_b()),
        ("ViT-S qkv at 224 px, weight transposed", MatMul::new(257, 1152, 384).trans_b()),
        ("ViT-L MLP up, gradient of the input", MatMul::new(1025, 1024, 4096)),
        ("pixel decoder FFN, weight transposed", MatMul::new(5376, 1024, 256).trans_b()),
        ("pixel decoder FFN, gradient of the weight", MatMul::new(1024, 256, 5376).trans_a()),
        ("mask logits", MatMul::new(100, 16_384, 256).trans_b()),
        ("3 x 3 convolution, unfolded", MatMul::new(16_384, 256, 2304)),
        ("Rein: tokens to rank", MatMul::new(100, 16, 1024)),
        ("ViT-S attention scores, 6 heads", MatMul::new(1025, 1025, 64).trans_b().batched(6)),
        ("one row of classes", MatMul::new(10, 48, 4)),
    ];
    let mut group = c.benchmark_group("matmul f32");
    for (name, s) in cases {
        let (a, b) = (noise::<f32>(s.batch * s.n * s.k, 1), noise::<f32>(s.batch * s.k * s.m, 2));
        let mut out = vec![0.0; s.batch * s.n * s.m];
        group.throughput(Throughput::Elements((s.batch * s.n * s.m * s.k) as u64));
        group.sample_size(10).bench_function(BenchmarkId::from_parameter(name), |bench| {
            bench.iter(|| s.run(1.0, &a, &b, Write::Over, &mut out));
        });
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
