//! Linear layers of ViT-S, ViT-B and ViT-L at 512 px; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::layer_norm::Normed;
use dressage_kernels::ops::linear::{Input, Linear, Output, Weight};
use half::bf16;

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

/// The MLP of a frozen block of ViT-L, with weights in f32 and in bf16. It has two parts, each with
/// its backward pass: norm and first product; GELU, second product, layer scale and residual.
fn frozen(c: &mut Criterion) {
    let mut group = c.benchmark_group("frozen linear");
    group.sample_size(10);
    let (n, k, m) = (1025, 1024, 4096);
    let (x, w) = (noise::<f32>(n * k, 1), noise::<f32>(m * k, 2));
    let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let (up, down) = (Linear { n, m, k }, Linear { n, m: k, k: m });
    let (wide, slim) = (noise::<f32>(m, 3), noise::<f32>(k, 4));
    let (mut h, mut y) = (noise::<f32>(n * m, 5), vec![0.0; n * k]);
    let norm = Normed { z: &x, mean: &x[..n], rstd: &x[n..2 * n], weight: &slim, bias: &slim };
    let onto = Output::Residual { x: &x, gamma: Some(&slim) };
    group.throughput(Throughput::Elements((n * m * k) as u64));
    for (name, weight) in [("f32", Weight::Full(&w[..])), ("bf16", Weight::Bf16(&narrow))] {
        group.bench_function(BenchmarkId::new("norm, up", name), |bench| {
            bench
                .iter(|| up.fused(Input::Normed(norm), weight, Some(&wide), Output::Plain, &mut h));
        });
        group.bench_function(BenchmarkId::new("GELU, down, residual", name), |bench| {
            bench.iter(|| down.fused(Input::Gelu(&h), weight, Some(&slim), onto, &mut y));
        });
        group.bench_function(BenchmarkId::new("back through up", name), |bench| {
            bench.iter(|| up.fused_backward(weight, None, None, &h, &mut y));
        });
        let z = h.clone();
        group.bench_function(BenchmarkId::new("back through down and GELU", name), |bench| {
            bench.iter(|| down.fused_backward(weight, Some(&slim), Some(&z), &x, &mut h));
        });
    }
    group.finish();
}

criterion_group!(benches, directions, frozen);
criterion_main!(benches);
