//! Fused linear layers of ViT-L at 512 px; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::layer_norm::Normed;
use dressage_kernels::ops::linear::{Input, Linear, Output, Weight};
use half::bf16;

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

criterion_group!(benches, frozen);
criterion_main!(benches);
