//! Matching costs and losses of one output at the sizes of a 512 px training step.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::match_cost::MatchCost;

const P: usize = 12544;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask_losses");
    let unit = |n, seed| noise::<f32>(n, seed).iter().map(|v| v.abs()).collect::<Vec<_>>();
    let (cls, x) = (noise::<f32>(100 * 20, 1), noise::<f32>(100 * P, 2));
    for g in [8, 19] {
        let s = MatchCost::new(100, g, 19, P);
        let (labels, t) = ((0..g as i32).collect::<Vec<_>>(), unit(g * P, 3));
        let mut cost = vec![0.0; 100 * g];
        group.throughput(Throughput::Elements((6 * 100 * g * P) as u64));
        group.bench_function(format!("costs of one image with {g} classes (FLOP)"), |b| {
            b.iter(|| s.compute(&cls, &labels, black_box(&x), &t, &mut cost).expect("lengths"));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
