//! Small operations: position codes, rotary and relative position, random points.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::relative_position::RelativePosition;
use dressage_kernels::ops::rotary::{Rotary, Turn, table};
use dressage_kernels::ops::sine_position::sine_position;
use dressage_kernels::ops::uniform::Uniform;

fn operations(c: &mut Criterion) {
    let mut group = c.benchmark_group("small f32");
    group.sample_size(20);
    let mut table = vec![0.0f32; 64 * 64 * 256];
    group.throughput(Throughput::Bytes(4 * table.len() as u64));
    group.bench_function("sine_position, stride 8 of 512 px", |bench| {
        bench.iter(|| sine_position(64, 64, 256, &mut table));
    });
    group.finish();
}

fn positions(c: &mut Criterion) {
    let mut group = c.benchmark_group("position f32");
    group.sample_size(20);
    let s = Rotary { b: 1, t: 1025, heads: 16, d: 64, skip: 1 };
    let mut qkv = noise::<f32>(s.t * 3 * s.heads * s.d, 1);
    let angles = table([32, 32], 16, s.d).expect("64 channels are four times 16");
    let angles: Vec<f32> = angles.into_iter().map(|x| x as f32).collect();
    group.throughput(Throughput::Bytes((16 * 1024 * s.heads * s.d) as u64));
    group.bench_function("rotary, EVA02-L", |bench| {
        bench.iter(|| s.apply(&mut qkv, &angles, Turn::Forward));
    });
    for (name, b, h, w) in [("global", 1, 32, 32), ("windows", 9, 14, 14)] {
        let s = RelativePosition { b, heads: 16, d: 80, h, w };
        let n = b * h * w * s.heads;
        let qkv = noise::<f32>(3 * n * s.d, 1);
        let (rows, columns) = (noise((2 * h - 1) * s.d, 2), noise((2 * w - 1) * s.d, 3));
        let (mut rel, mut dqkv) = (vec![0.0; n * (h + w)], vec![0.0; qkv.len()]);
        let tables = [&rows[..], &columns[..]];
        group.throughput(Throughput::Elements((2 * rel.len() * s.d) as u64));
        group.bench_function(format!("relative_position forward, SAM-H {name}"), |bench| {
            bench.iter(|| s.forward(&qkv, tables, &mut rel));
        });
        group.bench_function(format!("relative_position backward, SAM-H {name}"), |bench| {
            bench.iter(|| s.backward(&qkv, tables, &rel, Some(&mut dqkv), [None, None]));
        });
    }
    group.finish();
}

fn points(c: &mut Criterion) {
    let mut group = c.benchmark_group("small f32");
    group.sample_size(20);
    let points = Uniform { seed: 1, purpose: 2, first: 3, streams: 1, rows: 76, draws: 2 * 37632 };
    let mut drawn = vec![0.0; points.rows * points.draws];
    group.throughput(Throughput::Bytes(4 * drawn.len() as u64));
    group.bench_function("uniform, candidates of 76 pairs", |bench| {
        bench.iter(|| points.fill(7, None, &mut drawn));
    });
    group.finish();
}

criterion_group!(benches, operations, positions, points);
criterion_main!(benches);
