//! Verification of group norm on a device against the reference.

use half::bf16;

use super::{GroupNorm, Stats, StatsGpu, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "group_norm", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    let eps = 1e-5;
    for (b, hw, c, groups) in [(1, 1, 2, 1), (2, 67, 12, 4), (1, 130, 264, 33), (2, 35, 64, 8)] {
        let s = GroupNorm { b, hw, c, groups, eps };
        check::<f32>(verification, s, 0.0)?;
        check::<bf16>(verification, s, 0.0)?;
    }
    // A mean far from zero, where E[x^2] - E[x]^2 would fail.
    check::<f32>(verification, GroupNorm { b: 1, hw: 200, c: 16, groups: 2, eps }, 300.0)
}

/// Inputs; the gradients of weight and bias start as `old`.
struct Inputs<T> {
    x: Vec<T>,
    dy: Vec<T>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    old: Vec<f32>,
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    dx: Vec<T>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

fn run<T: Float>(device: &Device, s: &GroupNorm, of: &Inputs<T>) -> Result<Outputs<T>> {
    let (all, stats) = (s.b * s.hw * s.c, s.b * s.groups);
    let (x, dy) = (device.upload("x", &of.x)?, device.upload("dy", &of.dy)?);
    let weight = device.upload("weight", &of.weight)?;
    let bias = device.upload("bias", &of.bias)?;
    let (mut y, mut dx) = (device.alloc("y", all)?, device.alloc("dx", all)?);
    let (mut mean, mut rstd) = (device.alloc("mean", stats)?, device.alloc("rstd", stats)?);
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    s.forward_gpu(device, x.view(), weight.view(), bias.view(), y.view_mut(), m, r)?;
    let mut dweight = device.upload("dweight", &of.old)?;
    let mut dbias = device.upload("dbias", &of.old)?;
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
    let (x, dy, out) = (x.view(), dy.view(), Some(dx.view_mut()));
    s.backward_gpu(device, x, weight.view(), stats, dy, out, dw, db)?;
    Ok(Outputs {
        y: device.download(y.view())?,
        mean: device.download(mean.view())?,
        rstd: device.download(rstd.view())?,
        dx: device.download(dx.view())?,
        dweight: device.download(dweight.view())?,
        dbias: device.download(dbias.view())?,
    })
}

fn check<T: Float>(verification: &mut Verification<'_>, s: GroupNorm, mean: f32) -> Result<()> {
    let all = s.b * s.hw * s.c;
    let x: Vec<f32> = noise::<f32>(all, 1).iter().map(|v| v + mean).collect();
    let ((x, exact_x), (dy, exact_dy)) = (stored::<T>(&x), stored::<T>(&noise(all, 2)));
    let of = Inputs { x, dy, weight: noise(s.c, 3), bias: noise(s.c, 4), old: noise(s.c, 5) };
    let GroupNorm { b, hw, c, groups, .. } = s;
    let what = format!("group_norm{} [{b}, {hw}, {c}] / {groups}", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, &of))?;
    forward(verification, &what, &s, [&exact_x, &wide(&of.weight), &wide(&of.bias)], &got);
    let parts = [&exact_x[..], &exact_dy, &wide(&of.weight), &wide(&of.old)];
    backward(verification, &what, &s, parts, &got);
    Ok(())
}

/// Index of the group of element `i`.
fn group(s: &GroupNorm, i: usize) -> usize {
    i / (s.hw * s.c) * s.groups + i % s.c / (s.c / s.groups)
}

/// Mean magnitude of `f` over each group, `[b, groups]`.
fn group_means(s: &GroupNorm, f: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; s.b * s.groups];
    for i in 0..s.b * s.hw * s.c {
        sums[group(s, i)] += f(i).abs() / (s.hw * s.c / s.groups) as f64;
    }
    sums
}

fn forward<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &GroupNorm,
    [x, w, b]: [&[f64]; 3],
    got: &Outputs<T>,
) {
    let stats = s.b * s.groups;
    let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; stats], vec![0.0; stats]);
    reference::forward(s, x, w, b, &mut y, &mut mean, &mut rstd);
    // Additions of a split, merges of a lane (four operations each), merges of the warp.
    let splits = s.splits();
    let merges = (splits.count * (s.c / s.groups)).div_ceil(32) as f64 + 5.0;
    let unit = (splits.rows as f64 + 4.0 * merges + 8.0) * UNIT;
    let sizes = group_means(s, |i| x[i]);
    let mean_error = |g: usize| unit * sizes[g];
    verification.within(&format!("{what}: mean"), &got.mean, &mean, mean_error);
    // The variance is around the computed mean of a split. The error of the mean enters squared,
    // the rounding of x - mean as a relative error.
    let rstd_error = |g: usize| rstd[g] * (unit + (mean_error(g) * rstd[g]).powi(2));
    verification.within(&format!("{what}: rstd"), &got.rstd, &rstd, rstd_error);
    verification.within(&format!("{what}: y"), &got.y, &y, |i| {
        let (g, w) = (group(s, i), w[i % s.c].abs());
        let scaled = ((x[i] - mean[g]) * rstd[g]).abs() * w;
        let rounding = 4.0 * UNIT * (scaled + b[i % s.c].abs());
        mean_error(g) * rstd[g] * w + rstd_error(g) / rstd[g] * scaled + rounding
    });
}

/// Checks the backward pass with the statistics of the device.
fn backward<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &GroupNorm,
    [x, dy, w, old]: [&[f64]; 4],
    got: &Outputs<T>,
) {
    let (mean, rstd) = (wide(&got.mean), wide(&got.rstd));
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], old.to_vec(), old.to_vec());
    let stats = Stats { mean: &mean, rstd: &rstd };
    reference::backward(s, x, w, stats, dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
    let xhat = |i: usize| (x[i] - mean[group(s, i)]) * rstd[group(s, i)];
    let splits = s.splits();
    let unit = (splits.depth() + (splits.count + s.b + s.c / s.groups) as f64 + 8.0) * UNIT;
    let g_mean = group_means(s, |i| dy[i] * w[i % s.c]);
    let gx_mean = group_means(s, |i| dy[i] * w[i % s.c] * xhat(i));
    verification.within(&format!("{what}: dx"), &got.dx, &dx, |i| {
        let (g, own) = (group(s, i), (dy[i] * w[i % s.c]).abs());
        unit * rstd[g] * (own + g_mean[g] + xhat(i).abs() * gx_mean[g])
    });
    let column = |j: usize, f: &dyn Fn(usize) -> f64| {
        (0..s.b * s.hw).map(|i| f(i * s.c + j).abs()).sum::<f64>() + old[j].abs()
    };
    verification.within(&format!("{what}: dweight"), &got.dweight, &dw, |j| {
        unit * column(j, &|i| dy[i] * xhat(i))
    });
    verification
        .within(&format!("{what}: dbias"), &got.dbias, &db, |j| unit * column(j, &|i| dy[i]));
}

/// Finest map of the pixel decoder for four 512 px images.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = GroupNorm { b: 4, hw: 128 * 128, c: 256, groups: 32, eps: 1e-5 };
    let (all, groups) = (s.b * s.hw * s.c, s.b * s.groups);
    let x = filled::<bf16>(device, "x", all, 1)?;
    let weight = filled::<f32>(device, "weight", s.c, 2)?;
    let bias = filled::<f32>(device, "bias", s.c, 3)?;
    let mut y = device.alloc::<bf16>("y", all)?;
    let (mut mean, mut rstd) = (device.alloc("mean", groups)?, device.alloc("rstd", groups)?);
    let forward = move || {
        let (m, r) = (mean.view_mut(), rstd.view_mut());
        s.forward_gpu(device, x.view(), weight.view(), bias.view(), y.view_mut(), m, r)
    };
    let x = filled::<bf16>(device, "x", all, 1)?;
    let dy = filled::<bf16>(device, "dy", all, 4)?;
    let weight = filled::<f32>(device, "weight", s.c, 2)?;
    let (mean, rstd) = (filled(device, "mean", groups, 5)?, filled(device, "rstd", groups, 6)?);
    let mut dx = device.alloc::<bf16>("dx", all)?;
    let mut dweight = device.zeros::<f32>("dweight", s.c)?;
    let mut dbias = device.zeros::<f32>("dbias", s.c)?;
    let backward = move || {
        let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
        let (dx, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let (x, dy, db) = (x.view(), dy.view(), Some(dbias.view_mut()));
        s.backward_gpu(device, x, weight.view(), stats, dy, dx, dw, db)
    };
    let shape = format!("[{}, {}, {}] / {}", s.b, s.hw, s.c, s.groups);
    // Maps have two bytes per element; statistics and parameters are negligible.
    Ok(vec![
        Timed::new("group_norm_fwd_bf16", shape.clone(), 8 * all, 4 * all, forward),
        Timed::new("group_norm_bwd_bf16", shape, 16 * all, 6 * all, backward),
    ])
}
