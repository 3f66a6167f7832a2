//! Reading labels at points, at the sizes of a 512 px training step.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::point_sample::LabelSample;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("point_sample");
    let unit = |n, seed| noise::<f32>(n, seed).iter().map(|v| v * 0.5 + 0.5).collect::<Vec<_>>();
    let labels: Vec<u8> = unit(512 * 512, 3).iter().map(|v| (v * 19.0) as u8).collect();
    let (images, classes): (Vec<i32>, Vec<i32>) = (vec![0; 19], (0..19).collect());
    let (points, mut values) = (unit(2 * 12544, 4), vec![0.0; 19 * 12544]);
    let s = LabelSample { h: 512, w: 512, p: 12544 };
    group.throughput(Throughput::Elements(12544));
    group.bench_function("matching, masks of 19 classes", |b| {
        b.iter(|| {
            s.shared(black_box(&labels), &images, &classes, &points, &mut values)
                .expect("lengths fit")
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
