//! Multi-scale deformable attention as the pixel decoder runs it: 8 heads of 32, three levels,
//! four points.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::ms_deform_attn::MsDeformAttn;

/// Strides 32, 16 and 8 of a 512 px and of a 1024 px image, in the order of the tokens.
const IMAGES: [(&str, [(usize, usize); 3]); 2] =
    [("512px", [(16, 16), (32, 32), (64, 64)]), ("1024px", [(32, 32), (64, 64), (128, 128)])];

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("ms_deform_attn");
    group.sample_size(10);
    for (name, levels) in &IMAGES {
        let s = MsDeformAttn { b: 1, levels, heads: 8, d: 32, points: 4 };
        let rows = s.tokens() * s.heads;
        let value = noise::<f32>(rows * s.d, 1);
        let offsets: Vec<f32> = noise::<f32>(rows * 24, 2).iter().map(|v| v * 4.0).collect();
        let (logits, dout) = (noise::<f32>(rows * 12, 3), noise::<f32>(rows * s.d, 4));
        let (mut out, mut attn) = (vec![0.0; rows * s.d], vec![0.0; rows * 12]);
        // FLOP: a multiplication and an addition per channel and tap.
        group.throughput(Throughput::Elements((rows * 12 * 4 * 32 * 2) as u64));
        group.bench_function(format!("forward/{name}"), |b| {
            b.iter(|| s.forward(&value, &offsets, &logits, &mut out, &mut attn));
        });
        let mut d = [rows * 32, rows * 24, rows * 12].map(|n| vec![0.0f32; n]);
        group.throughput(Throughput::Elements((rows * 12 * 4 * 32 * 4) as u64));
        group.bench_function(format!("backward/{name}"), |b| {
            let [dv, doff, dz] = &mut d;
            b.iter(|| {
                let (dv, doff, dz) = (Some(&mut dv[..]), Some(&mut doff[..]), Some(&mut dz[..]));
                s.backward(&value, &offsets, &attn, &dout, dv, doff, dz)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
