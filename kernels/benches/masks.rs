//! Attention masks from the mask logits of the mask decoder, for 512 px images.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::attention_mask::AttentionMask;
use dressage_kernels::ops::resize::{Axis, Mode, Step};

fn axis(from: usize, to: usize) -> Axis {
    Axis::new(from, to, Mode::Bilinear, Step::Size).expect("sizes are positive")
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("masks");
    let logits = noise::<f32>(400 * 128 * 128, 1);
    for to in [16, 32, 64] {
        let axis = axis(128, to);
        let s = AttentionMask { n: 400, y: &axis, x: &axis };
        let mut used = vec![0; 400 * to * to];
        group.throughput(Throughput::Elements(used.len() as u64));
        group.bench_function(format!("attention mask of 4 x 100 queries, {to} x {to} keys"), |b| {
            b.iter(|| s.compute(black_box(&logits), &mut used, None).expect("lengths fit"));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
