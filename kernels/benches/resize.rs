//! Resampling at the sizes of a 512 px training step.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::resize::{Axis, Mode, Resize, Step};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("resize");
    for (name, n, channels, from, to) in [
        ("ViT-L tap x4", 1, 1024, 32, 128),
        ("ViT-S tap x4", 1, 384, 32, 128),
        ("ViT-L tap x0.5", 1, 1024, 32, 16),
        ("100 mask logits to the crop", 100, 1, 128, 512),
        ("19 scores to 1024 px", 19, 1, 512, 1024),
    ] {
        let axis = Axis::new(from, to, Mode::Bilinear, Step::Size).expect("sizes are positive");
        let s = Resize { n, c: channels, y: &axis, x: &axis };
        let (x, mut y) = (noise::<f32>(s.input_len(), 1), vec![0.0; s.output_len()]);
        group.throughput(Throughput::Bytes(4 * (x.len() + y.len()) as u64));
        group.bench_function(format!("{name}, forward"), |b| {
            b.iter(|| s.forward(black_box(&x), &mut y).expect("lengths fit"));
        });
        let mut dx = vec![0.0; x.len()];
        group.bench_function(format!("{name}, backward"), |b| {
            b.iter(|| s.backward(black_box(&y), &mut dx).expect("lengths fit"));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
