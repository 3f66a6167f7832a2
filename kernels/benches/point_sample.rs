//! Reading mask logits and labels at points, and choosing the uncertain ones, at the sizes of a
//! 512 px training step.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::point_sample::{LabelSample, PointSample};
use dressage_kernels::ops::uncertain_points::UncertainPoints;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("point_sample");
    let unit = |n, seed| noise::<f32>(n, seed).iter().map(|v| v * 0.5 + 0.5).collect::<Vec<_>>();
    for (name, r, p, shared) in [
        ("matching, 100 queries at shared points", 100, 12544, true),
        ("uncertainty, 32 pairs", 32, 37632, false),
        ("loss, 32 pairs", 32, 12544, false),
    ] {
        let s = PointSample { r, h: 128, w: 128, p, shared };
        let maps = noise::<f32>(r * 128 * 128, 1);
        let points = unit(2 * p * if shared { 1 } else { r }, 2);
        let mut values = vec![0.0; r * p];
        group.throughput(Throughput::Elements((r * p) as u64));
        group.bench_function(format!("{name}, forward"), |b| {
            b.iter(|| s.forward(black_box(&maps), &points, &mut values).expect("lengths fit"));
        });
        let mut dmaps = vec![0.0; maps.len()];
        group.bench_function(format!("{name}, backward"), |b| {
            b.iter(|| s.backward(&points, black_box(&values), &mut dmaps).expect("lengths fit"));
        });
    }
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
    let s = UncertainPoints { r: 32, n_over: 37632, keep: 9408, n_rand: 3136 };
    let (logits, points) = (noise::<f32>(32 * 37632, 5), unit(32 * 37632 * 2, 6));
    let (random, mut out) = (unit(32 * 3136 * 2, 7), vec![0.0; 32 * 12544 * 2]);
    group.throughput(Throughput::Elements(32 * 37632));
    group.bench_function("uncertain points of 32 pairs", |b| {
        b.iter(|| s.select(black_box(&logits), &points, &random, &mut out).expect("lengths fit"));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
