//! Rein after one block of each backbone at 512 px: 1024 patches, one class token, 100 tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dressage_kernels::check::noise;
use dressage_kernels::ops::rein::{Gradients, Rein, Weights};

const BACKBONES: [(&str, usize); 3] = [("ViT-S", 384), ("ViT-B", 768), ("ViT-L", 1024)];

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rein");
    group.sample_size(10);
    for (name, c) in BACKBONES {
        let s = Rein { b: 1, skip: 1, n: 1024, c, m: 100, softmax: true };
        let (f, dout) = (noise::<f32>(1025 * c, 1), noise::<f32>(1025 * c, 2));
        let (tokens, values) = (noise::<f32>(100 * c, 3), noise::<f32>(99 * c, 4));
        let (weight, bias) = (noise::<f32>(c * c, 5), noise::<f32>(c, 6));
        let (tokens, values) = (&tokens[..], &values[..]);
        let w = Weights { tokens, values, weight: &weight, bias: &bias, scale: &[1e-3] };
        let (mut out, mut lse) = (vec![0.0; f.len()], vec![0.0; s.n]);
        // FLOP: the products with W_f, T and V; backward repeats two and adds six.
        let (square, narrow) = (2 * (s.n * c * c) as u64, 2 * (s.n * c * s.m) as u64);
        group.throughput(Throughput::Elements(square + 2 * narrow));
        group.bench_function(format!("forward/{name} 512px"), |b| {
            b.iter(|| s.forward(&f, w, &mut out, &mut lse));
        });
        let mut d = [f.len(), 100 * c, 99 * c, c * c, c, 1].map(|n| vec![0.0f32; n]);
        group.throughput(Throughput::Elements(2 * square + 6 * narrow));
        group.bench_function(format!("backward/{name} 512px"), |b| {
            b.iter(|| {
                let [df, dt, dv, dw, db, ds] = d.each_mut().map(|d| Some(&mut d[..]));
                let (dtokens, dvalues, dweight, dbias, dscale) = (dt, dv, dw, db, ds);
                let d = Gradients { df, dtokens, dvalues, dweight, dbias, dscale };
                s.backward(&f, w, &lse, &dout, d)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
