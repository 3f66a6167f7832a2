//! Attention of the backbones (packed) and of the mask decoder (separate, with blocked keys).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::attention::Attention;

/// Backbones at 512 px and patch 16: 1024 patches and the class token.
const BACKBONES: [(&str, usize); 3] = [("ViT-S", 6), ("ViT-B", 12), ("ViT-L", 16)];

/// The decoder's 100 queries against each other and against the strides 32, 16 and 8 of 512 px.
const DECODER: [(&str, usize); 4] =
    [("self", 100), ("stride32", 256), ("stride16", 1024), ("stride8", 4096)];

fn products(s: &Attention) -> u64 {
    2 * (s.b * s.heads * s.nq * s.nk * s.d) as u64
}

fn backbones(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(10);
    for (name, heads) in BACKBONES {
        let s = Attention { b: 1, heads, d: 64, nq: 1025, nk: 1025 };
        let n = s.nq * heads * s.d;
        let (qkv, dout) = (noise::<f32>(3 * n, 1), noise::<f32>(n, 2));
        let (mut out, mut lse) = (vec![0.0; n], vec![0.0; heads * s.nq]);
        // FLOP: two products forward, five backward.
        group.throughput(Throughput::Elements(2 * products(&s)));
        group.bench_function(format!("forward/{name} 512px"), |b| {
            b.iter(|| s.forward_packed(&qkv, &mut out, &mut lse));
        });
        let mut dqkv = vec![0.0; 3 * n];
        group.throughput(Throughput::Elements(5 * products(&s)));
        group.bench_function(format!("backward/{name} 512px"), |b| {
            b.iter(|| s.backward_packed(&qkv, &lse, &dout, &mut dqkv));
        });
    }
    group.finish();
}

fn decoder(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention_decoder");
    group.sample_size(10);
    for (name, nk) in DECODER {
        let s = Attention { b: 1, heads: 8, d: 32, nq: 100, nk };
        let n = [s.nq, nk, nk].map(|n| n * 256);
        let [q, k, v] = [0, 1, 2].map(|i| noise::<f32>(n[i], i as u64 + 1));
        let dout = noise::<f32>(n[0], 4);
        let blocked: Vec<u8> =
            noise::<f32>(s.nq * nk, 5).iter().map(|v| u8::from(*v > 0.5)).collect();
        let (mut out, mut lse) = (vec![0.0; n[0]], vec![0.0; 8 * s.nq]);
        group.throughput(Throughput::Elements(2 * products(&s)));
        group.bench_function(format!("forward/{name}"), |b| {
            b.iter(|| s.forward(&q, &k, &v, Some(&blocked), &mut out, &mut lse));
        });
        let mut d = n.map(|n| vec![0.0f32; n]);
        group.throughput(Throughput::Elements(5 * products(&s)));
        group.bench_function(format!("backward/{name}"), |b| {
            let [dq, dk, dv] = &mut d;
            b.iter(|| {
                let (dq, dk, dv) = (Some(&mut dq[..]), Some(&mut dk[..]), Some(&mut dv[..]));
                s.backward(&q, &k, &v, Some(&blocked), &lse, &dout, dq, dk, dv)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, backbones, decoder);
criterion_main!(benches);
