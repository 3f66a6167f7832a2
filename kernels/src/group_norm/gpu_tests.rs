use half::bf16;

use super::{GroupNorm, Stats, StatsGpu, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Sums of `f(i)` over each group `[b, groups]`.
fn group_sums(s: &GroupNorm, f: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; s.b * s.groups];
    for i in 0..s.b * s.hw * s.c {
        sums[group(s, i)] += f(i);
    }
    sums
}

fn group(s: &GroupNorm, i: usize) -> usize {
    i / (s.hw * s.c) * s.groups + i % s.c / (s.c / s.groups)
}

/// What the kernels leave: y, mean, rstd, dx, dweight, dbias. The gradients start as `old`.
type Results<T> = (Vec<T>, Vec<f32>, Vec<f32>, Vec<T>, Vec<f32>, Vec<f32>);

fn run<T: Float>(s: &GroupNorm, x: &[T], dy: &[T], [w, b, old]: [&[f32]; 3]) -> Results<T> {
    let device = Device::virtual_gpu();
    let all = s.b * s.hw * s.c;
    let (x, dy) = (device.upload("x", x).unwrap(), device.upload("dy", dy).unwrap());
    let (w, b) = (device.upload("weight", w).unwrap(), device.upload("bias", b).unwrap());
    let (mut y, mut dx) = (device.alloc("y", all).unwrap(), device.alloc("dx", all).unwrap());
    let mut mean = device.alloc("mean", s.b * s.groups).unwrap();
    let mut rstd = device.alloc("rstd", s.b * s.groups).unwrap();
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    s.forward_gpu(&device, x.view(), w.view(), b.view(), y.view_mut(), m, r).unwrap();
    let mut dw = device.upload("dweight", old).unwrap();
    let mut db = device.upload("dbias", old).unwrap();
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    let (dw_out, db_out) = (Some(dw.view_mut()), Some(db.view_mut()));
    let (x, dy, dx_out) = (x.view(), dy.view(), Some(dx.view_mut()));
    s.backward_gpu(&device, x, w.view(), stats, dy, dx_out, dw_out, db_out).unwrap();
    let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
    let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
    (big(&y), down(&mean), down(&rstd), big(&dx), down(&dw), down(&db))
}

fn check<T: Float>(s: GroupNorm, mean: f32) {
    let all = s.b * s.hw * s.c;
    let x: Vec<f32> = noise::<f32>(all, 1).iter().map(|v| v + mean).collect();
    let (x, exact_x) = stored::<T>(&x);
    let (dy, exact_dy) = stored::<T>(&noise(all, 2));
    let (w, b, old) = (noise::<f32>(s.c, 3), noise::<f32>(s.c, 4), noise::<f32>(s.c, 5));
    let got = run(&s, &x, &dy, [&w, &b, &old]);
    assert!(got == run(&s, &x, &dy, [&w, &b, &old]), "two runs differ");
    let (w, b) = (wide(&w), wide(&b));
    let stats = s.b * s.groups;
    let (mut y, mut mean, mut rstd) = (vec![0.0; all], vec![0.0; stats], vec![0.0; stats]);
    reference::forward(&s, &exact_x, &w, &b, &mut y, &mut mean, &mut rstd);
    let what = format!("group_norm{} [{}, {}, {}] / {}", T::SUFFIX, s.b, s.hw, s.c, s.groups);
    let count = (s.hw * s.c / s.groups) as f64;
    // Additions of a piece, merges of a lane (four operations each), merges of the warp.
    let pieces = s.pieces();
    let merges = (pieces.count * (s.c / s.groups)).div_ceil(32) as f64 + 5.0;
    let depth = pieces.rows as f64 + 4.0 * merges + 8.0;
    let sizes = group_sums(&s, |i| exact_x[i].abs() / count);
    let mean_error = |g: usize| depth * UNIT * sizes[g];
    assert_within(&format!("{what}, mean"), &got.1, &mean, |g| mean_error(g));
    // The variance is around the computed mean of a piece; its error enters squared, the rounding
    // of x - mean relative.
    let rstd_error = |g: usize| rstd[g] * (depth * UNIT + (mean_error(g) * rstd[g]).powi(2));
    assert_within(&format!("{what}, rstd"), &got.2, &rstd, |g| rstd_error(g));
    let xhat = |i: usize| (exact_x[i] - mean[group(&s, i)]) * rstd[group(&s, i)];
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| {
        let (g, w) = (group(&s, i), w[i % s.c].abs());
        let rounding = 4.0 * UNIT * (xhat(i).abs() * w + b[i % s.c].abs());
        mean_error(g) * rstd[g] * w + rstd_error(g) / rstd[g] * xhat(i).abs() * w + rounding
    });
    // From here on with the statistics that the device has.
    let (mean, rstd) = (wide(&got.1), wide(&got.2));
    let (mut dx, mut dw, mut db) = (vec![0.0; all], wide(&old), wide(&old));
    let st = Stats { mean: &mean, rstd: &rstd };
    let (dw_out, db_out) = (Some(&mut dw[..]), Some(&mut db[..]));
    reference::backward(&s, &exact_x, &w, st, &exact_dy, Some(&mut dx), dw_out, db_out);
    let xhat = |i: usize| (exact_x[i] - mean[group(&s, i)]) * rstd[group(&s, i)];
    let depth = pieces.depth() + (pieces.count + s.b + s.c / s.groups) as f64 + 8.0;
    let g_sum = group_sums(&s, |i| (exact_dy[i] * w[i % s.c]).abs() / count);
    let gx_sum = group_sums(&s, |i| (exact_dy[i] * w[i % s.c] * xhat(i)).abs() / count);
    assert_within(&format!("{what}, dx"), &got.3, &dx, |i| {
        let (g, own) = (group(&s, i), (exact_dy[i] * w[i % s.c]).abs());
        depth * UNIT * rstd[g] * (own + g_sum[g] + xhat(i).abs() * gx_sum[g])
    });
    let column = |f: &dyn Fn(usize) -> f64, j: usize| {
        (0..s.b * s.hw).map(|i| f(i * s.c + j).abs()).sum::<f64>() + f64::from(old[j].abs())
    };
    assert_within(&format!("{what}, dweight"), &got.4, &dw, |j| {
        depth * UNIT * column(&|i| exact_dy[i] * xhat(i), j)
    });
    assert_within(&format!("{what}, dbias"), &got.5, &db, |j| {
        depth * UNIT * column(&|i| exact_dy[i], j)
    });
}

#[test]
fn kernels_match_the_reference() {
    let eps = 1e-5;
    for (b, hw, c, groups) in [(1, 1, 2, 1), (2, 67, 12, 4), (1, 130, 264, 33), (2, 35, 64, 8)] {
        let s = GroupNorm { b, hw, c, groups, eps };
        check::<f32>(s, 0.0);
        check::<bf16>(s, 0.0);
    }
    // A mean far from zero, where the shortcut for the variance would fail.
    check::<f32>(GroupNorm { b: 1, hw: 200, c: 16, groups: 2, eps }, 300.0);
}

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = GroupNorm { b: 1, hw: 2, c: 4, groups: 2, eps: 1e-5 };
    let x = device.upload("x", &noise::<f32>(8, 1)).unwrap();
    let w = device.upload("weight", &noise::<f32>(4, 2)).unwrap();
    let stats = device.upload("stats", &[0.5f32, 0.5]).unwrap();
    let stats = StatsGpu { mean: stats.view(), rstd: stats.view() };
    let mut dw = device.zeros("dweight", 4).unwrap();
    let before = device.counters().launches;
    let run = |dw| s.backward_gpu(&device, x.view(), w.view(), stats, x.view(), None, dw, None);
    run(None).unwrap();
    assert_eq!(device.counters().launches, before);
    run(Some(dw.view_mut())).unwrap();
    assert_eq!(device.counters().launches, before + 3);
}
