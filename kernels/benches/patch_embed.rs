//! Patch embedding of 512 px images with patches of 16 px; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::patch_embed::PatchEmbed;

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("patch_embed f32");
    group.sample_size(10);
    for (name, width) in [("ViT-S", 384), ("ViT-B", 768), ("ViT-L", 1024)] {
        let s = PatchEmbed { b: 1, channels: 3, h: 512, w: 512, p: 16, c: width };
        let (x, w) = (noise::<f32>(3 * 512 * 512, 1), noise::<f32>(width * 768, 2));
        let (mut y, mut dw) = (noise::<f32>(1024 * width, 3), w.clone());
        group.throughput(Throughput::Elements((1024 * width * 768) as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &w, None, &mut y));
        });
        group.bench_function(BenchmarkId::new("dweight", name), |bench| {
            bench.iter(|| s.backward(Some(&x), &w, &y, None, Some(&mut dw), None));
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
