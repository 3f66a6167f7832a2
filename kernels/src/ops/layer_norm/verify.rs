//! Verification of layer norm on a device against the reference.

use half::bf16;

use super::{LayerNorm, Stats, StatsGpu, reference};
use crate::Result;
use crate::Write;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::sizes::RowSplit;
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "layer_norm", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One element, odd widths, rows kept in registers, the widest such row and the first that is
    // not.
    for (n, c) in [(1, 1), (7, 13), (70, 40), (9, 384), (3, 1024), (2, 1544), (2, 2056)] {
        check::<f32>(verification, n, c, 0.0)?;
        check::<bf16>(verification, n, c, 0.0)?;
    }
    // A mean far from zero, where E[x^2] - E[x]^2 would fail.
    check::<f32>(verification, 5, 384, 300.0)
}

/// Inputs: rows, incoming gradient, weight (also the start value of its gradient), bias.
struct Inputs<T> {
    x: Vec<T>,
    dy: Vec<T>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    dx: Vec<T>,
    /// `dx` added to `x`.
    sum: Vec<T>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

fn run<T: Float>(device: &Device, s: &LayerNorm, of: &Inputs<T>) -> Result<Outputs<T>> {
    let all = s.n * s.c;
    let (x, dy) = (device.upload("x", &of.x)?, device.upload("dy", &of.dy)?);
    let weight = device.upload("weight", &of.weight)?;
    let bias = device.upload("bias", &of.bias)?;
    let mut y = device.alloc("y", all)?;
    let (mut mean, mut rstd) = (device.alloc("mean", s.n)?, device.alloc("rstd", s.n)?);
    let (m, r) = (mean.view_mut(), rstd.view_mut());
    s.forward_gpu(device, x.view(), weight.view(), bias.view(), y.view_mut(), m, r)?;
    let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
    let (mut dx, mut sum) = (device.alloc("dx", all)?, device.alloc("sum", all)?);
    device.copy(x.view(), sum.view_mut())?;
    let mut dweight = device.upload("dweight", &of.weight)?;
    let mut dbias = device.upload("dbias", &of.weight)?;
    let (x, dy, weight) = (x.view(), dy.view(), weight.view());
    let added = Some((sum.view_mut(), Write::Add));
    s.backward_gpu(device, x, weight, stats, dy, added, None, None)?;
    let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
    let written = Some((dx.view_mut(), Write::Over));
    s.backward_gpu(device, x, weight, stats, dy, written, dw, db)?;
    Ok(Outputs {
        y: device.download(y.view())?,
        mean: device.download(mean.view())?,
        rstd: device.download(rstd.view())?,
        dx: device.download(dx.view())?,
        sum: device.download(sum.view())?,
        dweight: device.download(dweight.view())?,
        dbias: device.download(dbias.view())?,
    })
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    c: usize,
    mean: f32,
) -> Result<()> {
    let s = LayerNorm { n, c, eps: 1e-6 };
    let x: Vec<f32> = noise::<f32>(n * c, 1).iter().map(|v| v + mean).collect();
    let ((x, exact_x), (dy, exact_dy)) = (stored::<T>(&x), stored::<T>(&noise(n * c, 2)));
    let of = Inputs { x, dy, weight: noise(c, 3), bias: noise(c, 4) };
    let what = format!("layer_norm{} [{n}, {c}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, &of))?;
    forward(verification, &what, &s, [&exact_x, &wide(&of.weight), &wide(&of.bias)], &got);
    backward(verification, &what, &s, [&exact_x, &exact_dy, &wide(&of.weight)], &got);
    Ok(())
}

/// Depth of a row sum: a lane adds every 32nd element, then five steps combine the lanes; a few
/// more operations.
fn depth(s: &LayerNorm) -> f64 {
    s.c.div_ceil(32) as f64 + 5.0 + 4.0
}

/// Mean magnitude of `f` over row `i`.
fn row(s: &LayerNorm, i: usize, f: impl Fn(usize) -> f64) -> f64 {
    (i * s.c..(i + 1) * s.c).map(|at| f(at).abs()).sum::<f64>() / s.c as f64
}

fn forward<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &LayerNorm,
    [x, w, b]: [&[f64]; 3],
    got: &Outputs<T>,
) {
    let (n, c) = (s.n, s.c);
    let (mut y, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
    reference::forward(s, x, w, b, &mut y, &mut mean, &mut rstd);
    let unit = depth(s) * UNIT;
    let mean_error: Vec<f64> = (0..n).map(|i| unit * row(s, i, |at| x[at])).collect();
    verification.within(&format!("{what}: mean"), &got.mean, &mean, |i| mean_error[i]);
    // The error of the mean enters the variance squared, that of x - mean as a relative error.
    let rstd_error = |i: usize| rstd[i] * (unit + (mean_error[i] * rstd[i]).powi(2));
    verification.within(&format!("{what}: rstd"), &got.rstd, &rstd, rstd_error);
    let xhat = |at: usize| (x[at] - mean[at / c]) * rstd[at / c];
    verification.within(&format!("{what}: y"), &got.y, &y, |at| {
        let (i, w) = (at / c, w[at % c].abs());
        let rounding = 4.0 * UNIT * (xhat(at).abs() * w + b[at % c].abs());
        mean_error[i] * rstd[i] * w + rstd_error(i) / rstd[i] * xhat(at).abs() * w + rounding
    });
}

/// Checks the backward pass with the statistics of the device.
fn backward<T: Float>(
    verification: &mut Verification<'_>,
    what: &str,
    s: &LayerNorm,
    [x, dy, w]: [&[f64]; 3],
    got: &Outputs<T>,
) {
    let (n, c) = (s.n, s.c);
    let (mean, rstd) = (wide(&got.mean), wide(&got.rstd));
    let (mut dx, mut dw, mut db) = (vec![0.0; n * c], w.to_vec(), w.to_vec());
    let stats = Stats { mean: &mean, rstd: &rstd };
    let out = Some((&mut dx[..], Write::Over));
    reference::backward(s, x, w, stats, dy, out, Some(&mut dw), Some(&mut db));
    let xhat = |at: usize| (x[at] - mean[at / c]) * rstd[at / c];
    let g = |at: usize| dy[at] * w[at % c];
    let size: Vec<(f64, f64)> =
        (0..n).map(|i| (row(s, i, g), row(s, i, |at| g(at) * xhat(at)))).collect();
    let bound = |at: usize| {
        let (g_mean, gx_mean) = size[at / c];
        let of = g(at).abs() + g_mean + xhat(at).abs() * gx_mean;
        depth(s) * UNIT * rstd[at / c] * of
    };
    verification.within(&format!("{what}: dx"), &got.dx, &dx, bound);
    let sum: Vec<f64> = dx.iter().zip(x).map(|(d, x)| d + x).collect();
    let bound_added = |at: usize| bound(at) + UNIT * sum[at].abs();
    verification.within(&format!("{what}: dx added"), &got.sum, &sum, bound_added);
    let depth = RowSplit::of(n).depth() + 3.0;
    let column = |j: usize, f: &dyn Fn(usize) -> f64| {
        (0..n).map(|i| f(i * c + j).abs()).sum::<f64>() + w[j].abs()
    };
    verification.within(&format!("{what}: dweight"), &got.dweight, &dw, |j| {
        depth * UNIT * column(j, &|at| dy[at] * xhat(at))
    });
    verification.within(&format!("{what}: dbias"), &got.dbias, &db, |j| {
        depth * UNIT * column(j, &|at| dy[at])
    });
}

/// Tokens of four 512 px images of ViT-L, the class token included.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = LayerNorm { n: 4 * 1025, c: 1024, eps: 1e-6 };
    let all = s.n * s.c;
    let shape = format!("[{}, {}]", s.n, s.c);
    // x, y, dy and dx have two bytes per element; two statistics per row; parameters are
    // negligible.
    let (values, stats, params) = (2 * all, 8 * s.n, 4 * s.c);
    let x = filled::<bf16>(device, "x", all, 1)?;
    let weight = filled::<f32>(device, "weight", s.c, 2)?;
    let bias = filled::<f32>(device, "bias", s.c, 3)?;
    let mut y = device.alloc::<bf16>("y", all)?;
    let (mut mean, mut rstd) = (device.alloc("mean", s.n)?, device.alloc("rstd", s.n)?);
    let forward = move || {
        let (m, r) = (mean.view_mut(), rstd.view_mut());
        s.forward_gpu(device, x.view(), weight.view(), bias.view(), y.view_mut(), m, r)
    };
    let x = filled::<bf16>(device, "x", all, 1)?;
    let dy = filled::<bf16>(device, "dy", all, 4)?;
    let weight = filled::<f32>(device, "weight", s.c, 2)?;
    let (mean, rstd) = (filled(device, "mean", s.n, 5)?, filled(device, "rstd", s.n, 6)?);
    let mut dx = device.alloc::<bf16>("dx", all)?;
    let mut dweight = device.zeros::<f32>("dweight", s.c)?;
    let mut dbias = device.zeros::<f32>("dbias", s.c)?;
    let backward = move || {
        let stats = StatsGpu { mean: mean.view(), rstd: rstd.view() };
        let dx = Some((dx.view_mut(), Write::Over));
        let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
        s.backward_gpu(device, x.view(), weight.view(), stats, dy.view(), dx, dw, db)
    };
    let bytes = [2 * values + stats + 2 * params, 3 * values + stats + 5 * params];
    Ok(vec![
        Timed::new("layer_norm_fwd_bf16", shape.clone(), 8 * all, bytes[0], forward),
        Timed::new("layer_norm_bwd_bf16", shape, 14 * all, bytes[1], backward),
    ])
}
