//! Convolutions of the pixel decoder at 512 px; throughput counts multiply-adds.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::conv2d::Conv2d;

const SQUARE: Conv2d =
    Conv2d { b: 1, h: 128, w: 128, ci: 256, co: 256, kh: 3, kw: 3, stride: 1, pad: 1 };
const CASES: [(&str, Conv2d); 2] = [
    ("3 x 3 at stride 4", SQUARE),
    (
        "1 x 1, ViT-L to 256 channels",
        Conv2d { h: 64, w: 64, ci: 1024, kh: 1, kw: 1, pad: 0, ..SQUARE },
    ),
];

fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d f32");
    group.sample_size(10);
    for (name, s) in CASES {
        let (nx, ny) = (s.h * s.w * s.ci, s.h * s.w * s.co);
        let (x, dy) = (noise::<f32>(nx, 1), noise::<f32>(ny, 2));
        let w = noise::<f32>(s.co * s.ci * s.kh * s.kw, 3);
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        group.throughput(Throughput::Elements((ny * s.ci * s.kh * s.kw) as u64));
        group.bench_function(BenchmarkId::new("forward", name), |bench| {
            bench.iter(|| s.forward(&x, &w, None, &mut y));
        });
        group.bench_function(BenchmarkId::new("dx", name), |bench| {
            bench.iter(|| s.backward(None, &w, &dy, Some(&mut dx), None, None));
        });
        group.bench_function(BenchmarkId::new("dweight", name), |bench| {
            bench.iter(|| s.backward(Some(&x), &w, &dy, None, Some(&mut dw), None));
        });
    }
    group.finish();
}

criterion_group!(benches, directions);
criterion_main!(benches);
