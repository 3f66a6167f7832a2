use half::bf16;

use super::{LayerNorm, Stats, StatsGpu, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::sizes::Pieces;
use crate::device::{Device, Float};
use crate::matmul::Beta;

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// What the kernels leave: y, mean, rstd, dx, dx added to x, dweight, dbias.
type Results<T> = (Vec<T>, Vec<f32>, Vec<f32>, Vec<T>, Vec<T>, Vec<f32>, Vec<f32>);

fn run<T: Float>(s: &LayerNorm, x: &[T], dy: &[T], w: &[f32], b: &[f32]) -> Results<T> {
    let device = Device::virtual_gpu();
    let all = s.n * s.c;
    let (x, dy) = (device.upload("x", x).unwrap(), device.upload("dy", dy).unwrap());
    let weight = device.upload("weight", w).unwrap();
    let bias = device.upload("bias", b).unwrap();
    let mut y = device.alloc("y", all).unwrap();
    let mut mean = device.alloc("mean", s.n).unwrap();
    let mut rstd = device.alloc("rstd", s.n).unwrap();
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    s.forward_gpu(&device, x.view(), weight.view(), bias.view(), y.view_mut(), m, r).unwrap();
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    let mut dx = device.alloc("dx", all).unwrap();
    let mut sum = device.alloc("sum", all).unwrap();
    device.copy(x.view(), sum.view_mut()).unwrap();
    let mut dw = device.upload("dweight", w).unwrap();
    let mut db = device.upload("dbias", w).unwrap();
    let (x, dy, weight) = (x.view(), dy.view(), weight.view());
    let added = Some((sum.view_mut(), Beta::Add));
    s.backward_gpu(&device, x, weight, stats, dy, added, None, None).unwrap();
    let (dw_out, db_out) = (Some(dw.view_mut()), Some(db.view_mut()));
    let written = Some((dx.view_mut(), Beta::Overwrite));
    s.backward_gpu(&device, x, weight, stats, dy, written, dw_out, db_out).unwrap();
    let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
    let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
    (big(&y), down(&mean), down(&rstd), big(&dx), big(&sum), down(&dw), down(&db))
}

fn check<T: Float>(n: usize, c: usize, mean: f32) {
    let s = LayerNorm { n, c, eps: 1e-6 };
    let x: Vec<f32> = noise::<f32>(n * c, 1).iter().map(|v| v + mean).collect();
    let (x, exact_x) = stored::<T>(&x);
    let (dy, exact_dy) = stored::<T>(&noise(n * c, 2));
    let (w, b) = (noise::<f32>(c, 3), noise::<f32>(c, 4));
    let got = run(&s, &x, &dy, &w, &b);
    assert!(got == run(&s, &x, &dy, &w, &b), "two runs differ");
    let what = format!("layer_norm{} [{n}, {c}]", T::SUFFIX);
    let (w, b) = (wide(&w), wide(&b));
    let (mut y, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
    reference::forward(&s, &exact_x, &w, &b, &mut y, &mut mean, &mut rstd);
    // A lane adds every 32nd element, then five steps join the lanes; a few operations besides.
    let depth = c.div_ceil(32) as f64 + 5.0 + 4.0;
    let row = |f: &dyn Fn(usize) -> f64, i: usize| {
        (i * c..(i + 1) * c).map(|at| f(at).abs()).sum::<f64>() / c as f64
    };
    let mean_error: Vec<f64> = (0..n).map(|i| depth * UNIT * row(&|at| exact_x[at], i)).collect();
    assert_within(&format!("{what}, mean"), &got.1, &mean, |i| mean_error[i]);
    // The error of the mean enters the variance squared, that of x - mean relative.
    let rstd_error = |i: usize| rstd[i] * (depth * UNIT + (mean_error[i] * rstd[i]).powi(2));
    assert_within(&format!("{what}, rstd"), &got.2, &rstd, |i| rstd_error(i));
    let xhat = |at: usize| (exact_x[at] - mean[at / c]) * rstd[at / c];
    assert_within(&format!("{what}, forward"), &got.0, &y, |at| {
        let (i, w) = (at / c, w[at % c].abs());
        let rounding = 4.0 * UNIT * (xhat(at).abs() * w + b[at % c].abs());
        mean_error[i] * rstd[i] * w + rstd_error(i) / rstd[i] * xhat(at).abs() * w + rounding
    });
    // From here on with the statistics that the device has.
    let (mean, rstd) = (wide(&got.1), wide(&got.2));
    let (mut dx, mut dw, mut db) = (vec![0.0; n * c], w.clone(), w.clone());
    let st = Stats { mean: &mean, rstd: &rstd };
    let out = Some((&mut dx[..], Beta::Overwrite));
    reference::backward(&s, &exact_x, &w, st, &exact_dy, out, Some(&mut dw), Some(&mut db));
    let xhat = |at: usize| (exact_x[at] - mean[at / c]) * rstd[at / c];
    let g = |at: usize| exact_dy[at] * w[at % c];
    let size: Vec<(f64, f64)> =
        (0..n).map(|i| (row(&g, i), row(&|at| g(at) * xhat(at), i))).collect();
    let bound = |at: usize| {
        let (g_mean, gx_mean) = size[at / c];
        depth * UNIT * rstd[at / c] * (g(at).abs() + g_mean + xhat(at).abs() * gx_mean)
    };
    assert_within(&format!("{what}, dx"), &got.3, &dx, bound);
    let sum: Vec<f64> = dx.iter().zip(&exact_x).map(|(d, x)| d + x).collect();
    assert_within(&format!("{what}, dx added"), &got.4, &sum, |at| {
        bound(at) + UNIT * sum[at].abs()
    });
    let depth = Pieces::of(n).depth() + 3.0;
    let column = |f: &dyn Fn(usize) -> f64, j: usize| {
        (0..n).map(|i| f(i * c + j).abs()).sum::<f64>() + w[j].abs()
    };
    assert_within(&format!("{what}, dweight"), &got.5, &dw, |j| {
        depth * UNIT * column(&|at| exact_dy[at] * xhat(at), j)
    });
    assert_within(&format!("{what}, dbias"), &got.6, &db, |j| {
        depth * UNIT * column(&|at| exact_dy[at], j)
    });
}

#[test]
fn kernels_match_the_reference() {
    // One element, odd widths, held in registers, the widest row held and the first that is not.
    for (n, c) in [(1, 1), (7, 13), (70, 40), (9, 384), (3, 1024), (2, 1544), (2, 2056)] {
        check::<f32>(n, c, 0.0);
        check::<bf16>(n, c, 0.0);
    }
    // A mean far from zero, where the shortcut for the variance would fail.
    check::<f32>(5, 384, 300.0);
}

#[test]
fn wrong_lengths_are_named_and_nothing_is_launched_for_nothing() {
    let device = Device::virtual_gpu();
    let s = LayerNorm { n: 2, c: 3, eps: 1e-6 };
    let five = device.upload("x", &[0.0f32; 5]).unwrap();
    let three = device.upload("weight", &[0.0f32; 3]).unwrap();
    let (mut y, mut mean) =
        (device.zeros::<f32>("y", 6).unwrap(), device.zeros("mean", 2).unwrap());
    let mut rstd = device.zeros("rstd", 2).unwrap();
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    let (x, w) = (five.view(), three.view());
    let error = s.forward_gpu(&device, x, w, w, y.view_mut(), m, r).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: x has 5 elements, its sizes ask for 6");
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    s.backward_gpu(&device, y.view(), w, stats, y.view(), None, None, None).unwrap();
    assert_eq!(device.counters().launches, 0);
}
