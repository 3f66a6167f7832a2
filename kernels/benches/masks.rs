//! Score maps from the mask logits of the mask decoder, for 512 px images.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::resize::{Axis, Mode, Step};
use dressage_kernels::ops::semantic_scores::SemanticScores;

fn axis(from: usize, to: usize) -> Axis {
    Axis::new(from, to, Mode::Bilinear, Step::Size).expect("sizes are positive")
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("masks");
    let logits = noise::<f32>(400 * 128 * 128, 1);
    let s = SemanticScores { q: 100, k: 19 };
    let (cls, mut scores) = (noise::<f32>(100 * 20, 2), vec![0.0; 19 * 512 * 512]);
    let axis = axis(128, 512);
    group.throughput(Throughput::Elements((2 * 100 * 19 * 512 * 512) as u64));
    group.bench_function("scores of a 512 px window from 128 x 128 masks (FLOP)", |b| {
        b.iter(|| {
            s.upsampled(&axis, &axis, &cls, black_box(&logits[..100 * 128 * 128]), &mut scores)
                .expect("lengths fit");
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
