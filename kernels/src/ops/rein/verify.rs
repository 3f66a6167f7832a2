//! Verification of Rein on a device against the reference.

use half::bf16;

use super::{Gradients, GradientsGpu, Rein, Weights, WeightsGpu, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, sum_error};
use crate::device::{Buffer, Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "rein", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One token and patch; no multiple of a tile; several chunks; the wide kernel; no softmax; sums
    // over more than one split of an image.
    for (b, skip, n, c, m, softmax) in [
        (1, 0, 1, 64, 1, true),
        (2, 1, 3, 64, 4, true),
        (2, 5, 67, 64, 25, true),
        (1, 1, 33, 192, 100, true),
        (1, 0, 35, 64, 113, true),
        (2, 0, 40, 128, 17, false),
        (1, 1, 530, 64, 5, true),
    ] {
        let s = Rein { b, skip, n, c, m, softmax };
        check::<f32>(verification, &s)?;
        check::<bf16>(verification, &s)?;
    }
    Ok(())
}

/// Inputs in their storage type and exactly in f64: f, tokens, values, weight; bias, scale; dout.
struct Inputs<T> {
    wide: [Vec<T>; 5],
    narrow: [Vec<f32>; 2],
    exact: [Vec<f64>; 7],
}

fn inputs<T: Float>(s: &Rein) -> Inputs<T> {
    let all = s.b * (s.skip + s.n) * s.c;
    let shrink = |x: Vec<f32>, by: f32| x.iter().map(|x| x * by).collect::<Vec<f32>>();
    // Tokens of this magnitude make the softmax uneven, so that a lost column would be detected.
    let tokens = shrink(noise(s.m * s.c, 2), if s.softmax { 3.0 } else { 0.2 });
    let weight = shrink(noise(s.c * s.c, 4), 1.0 / (s.c as f32).sqrt());
    let drawn = [noise(all, 1), tokens, noise((s.m - 1) * s.c, 3), weight, noise(all, 7)];
    let [f, t, v, w, g] = drawn.map(|x| stored::<T>(&x));
    let narrow = [noise::<f32>(s.c, 5), vec![0.7]];
    let [bias, scale] = narrow.each_ref().map(|x| x.iter().map(|&x| f64::from(x)).collect());
    let exact = [f.1, t.1, v.1, w.1, bias, scale, g.1];
    Inputs { wide: [f.0, t.0, v.0, w.0, g.0], narrow, exact }
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    out: Vec<T>,
    lse: Vec<f32>,
    df: Vec<T>,
    /// `df` when no other gradient is requested.
    alone: Vec<T>,
    /// dtokens, dvalues, dweight, dbias, dscale; they start at 0.25.
    d: [Vec<f32>; 5],
}

/// Numbers of elements of the parameters in the order of [`Outputs::d`].
fn parameters(s: &Rein) -> [usize; 5] {
    [s.m * s.c, (s.m - 1) * s.c, s.c * s.c, s.c, 1]
}

/// Maps five values, or returns the first error.
fn each_of_5<T, U>(of: [T; 5], mut f: impl FnMut(T) -> Result<U>) -> Result<[U; 5]> {
    let [a, b, c, d, e] = of;
    Ok([f(a)?, f(b)?, f(c)?, f(d)?, f(e)?])
}

/// Outputs of all gradients.
fn wanted<'a, T: Float>(df: &'a mut Buffer<T>, d: &'a mut [Buffer<f32>; 5]) -> GradientsGpu<'a, T> {
    let df = Some(df.view_mut());
    let [dtokens, dvalues, dweight, dbias, dscale] = d.each_mut().map(|d| Some(d.view_mut()));
    GradientsGpu { df, dtokens, dvalues, dweight, dbias, dscale }
}

fn run<T: Float>(device: &Device, s: &Rein, x: &Inputs<T>) -> Result<Outputs<T>> {
    let [f, t, v, w, g] = each_of_5(x.wide.each_ref(), |x| device.upload("input", x))?;
    let bias = device.upload("bias", &x.narrow[0])?;
    let scale = device.upload("scale", &x.narrow[1])?;
    let (tokens, values, weight) = (t.view(), v.view(), w.view());
    let weights = WeightsGpu { tokens, values, weight, bias: bias.view(), scale: scale.view() };
    let mut out = device.alloc("out", f.len())?;
    let mut lse = device.alloc("lse", s.b * s.n)?;
    s.forward_gpu(device, f.view(), weights, out.view_mut(), lse.view_mut())?;
    let mut df = device.alloc("df", f.len())?;
    let mut d = each_of_5(parameters(s), |n| device.upload("gradient", &vec![0.25f32; n]))?;
    let all = wanted(&mut df, &mut d);
    s.backward_gpu(device, f.view(), weights, lse.view(), g.view(), all)?;
    let mut alone = device.alloc("df", f.len())?;
    let only = GradientsGpu { df: Some(alone.view_mut()), ..GradientsGpu::default() };
    s.backward_gpu(device, f.view(), weights, lse.view(), g.view(), only)?;
    Ok(Outputs {
        out: device.download(out.view())?,
        lse: device.download(lse.view())?,
        df: device.download(df.view())?,
        alone: device.download(alone.view())?,
        d: each_of_5(d, |d| device.download(d.view()))?,
    })
}

/// Values of the reference and the largest allowed errors of the kernels before a result is stored.
struct Expected {
    out: [Vec<f64>; 2],
    lse: [Vec<f64>; 2],
    df: [Vec<f64>; 2],
    d: [[Vec<f64>; 2]; 5],
}

fn expected<T: Float>(s: &Rein, x: &Inputs<T>) -> Expected {
    let [f, tokens, values, weight, bias, scale, g] = &x.exact;
    let w = Weights { tokens, values, weight, bias, scale };
    let zeros = |n: usize| vec![0.0f64; n];
    let pair = |n: usize| [zeros(n), zeros(n)];
    let sizes = [tokens.len(), values.len(), weight.len(), s.c, 1];
    let mut e = Expected {
        out: pair(f.len()),
        lse: pair(s.b * s.n),
        df: pair(f.len()),
        d: sizes.map(|n| [vec![0.25; n], vec![0.0; n]]),
    };
    reference::forward(s, f, w, &mut e.out[0], &mut e.lse[0]);
    let [dt, dv, dw, db, ds] = e.d.each_mut().map(|d| Some(&mut d[0][..]));
    let df = Some(&mut e.df[0][..]);
    let wanted = Gradients { df, dtokens: dt, dvalues: dv, dweight: dw, dbias: db, dscale: ds };
    reference::backward(s, f, w, &e.lse[0], g, wanted);
    for r in 0..s.b * s.n {
        row_bounds::<T>(s, &mut e, x, r);
    }
    e
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn sizes(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x * y).abs()).sum()
}

/// Column `k` of a matrix of `c` columns.
fn column(x: &[f64], c: usize, k: usize) -> Vec<f64> {
    x.iter().skip(k).step_by(c).copied().collect()
}

/// One patch: exact values and the largest errors of the kernels' intermediate values.
struct Row {
    /// First element in the features.
    at: usize,
    /// S with column 0; its errors before and after storing.
    weights: [Vec<f64>; 3],
    /// X; its errors before and after storing.
    mixed: [Vec<f64>; 3],
    /// G W_f as stored, and its error.
    dx0: [Vec<f64>; 2],
}

/// Adds the contribution of one patch to the bounds. The error of a sum of n terms is [`sum_error`]
/// times the sum of magnitudes. Stored intermediate values (S, X, Y, dX0, dz, s X) are rounded to
/// the storage type, `u`.
fn row_bounds<T: Float>(s: &Rein, e: &mut Expected, x: &Inputs<T>, r: usize) {
    let row = forward_bounds(s, e, x, r);
    let dz = score_gradients(s, x, &row);
    let [f, tokens, _, _, bias, scale, g] = &x.exact;
    let (c, m, by) = (s.c, s.m, scale[0]);
    let (f, g) = (&f[row.at..row.at + c], &g[row.at..row.at + c]);
    let (long, rows) = (c as f64 * UNIT, (sum_error::<T>(s.b * s.n) + 64.0) * UNIT);
    let [weights, _, s_error] = &row.weights;
    let [mixed, x_error, stored_x] = &row.mixed;
    let [dx0, d_error] = &row.dx0;
    for k in 0..c {
        let column = column(tokens, c, k);
        e.df[1][row.at + k] = by.abs() * d_error[k]
            + sizes(&dz[1], &column)
            + (sum_error::<T>(m) + 4.0)
                * UNIT
                * (sizes(&dz[0], &column) + (by * dx0[k]).abs() + g[k].abs());
        for j in 0..m {
            e.d[0][1][j * c + k] += f[k].abs() * (dz[1][j] + rows * dz[0][j].abs());
            if j > 0 {
                let product = (weights[j] * dx0[k]).abs();
                let error =
                    s_error[j] * (dx0[k].abs() + d_error[k]) + weights[j].abs() * d_error[k];
                e.d[1][1][(j - 1) * c + k] += by.abs() * (error + rows * product);
            }
        }
        // s X, stored
        let error = by.abs() * stored_x[k] + UNIT * (by * mixed[k]).abs();
        for i in 0..c {
            let product = (g[i] * by * mixed[k]).abs();
            e.d[2][1][i * c + k] += g[i].abs() * error + rows * product;
        }
        e.d[3][1][k] += rows * (by * g[k]).abs();
        e.d[4][1][0] += mixed[k].abs() * d_error[k]
            + x_error[k] * (dx0[k].abs() + d_error[k])
            + rows.max(long) * 2.0 * ((mixed[k] * dx0[k]).abs() + (bias[k] * g[k]).abs());
    }
}

/// Bounds of `out` and `lse`, and the intermediate values for the backward pass.
fn forward_bounds<T: Float>(s: &Rein, e: &mut Expected, x: &Inputs<T>, r: usize) -> Row {
    let [f, tokens, values, weight, bias, scale, g] = &x.exact;
    let (c, m, by, u) = (s.c, s.m, scale[0], f64::from(T::ROUNDING));
    let at = (r + (r / s.n + 1) * s.skip) * c;
    let (f, g, long) = (&f[at..at + c], &g[at..at + c], (sum_error::<T>(c) + 8.0) * UNIT);
    let token = |j: usize| &tokens[j * c..(j + 1) * c];
    let score_scale: f64 = s.score_scale();
    let z: Vec<f64> = (0..m).map(|j| dot(f, token(j)) * score_scale).collect();
    let z_error: Vec<f64> =
        (0..m).map(|j| (long + 4.0 * UNIT) * sizes(f, token(j)) * score_scale).collect();
    let worst = z_error.iter().fold(0.0, |a: f64, b| a.max(*b));
    let softmax_error = 2.0 * worst + (m as f64 + 8.0) * UNIT + 0.5f64.powi(20);
    e.lse[1][r] = if s.softmax { softmax_error + 4.0 * UNIT * e.lse[0][r].abs() } else { 0.0 };
    let weights: Vec<f64> =
        z.iter().map(|z| if s.softmax { (z - e.lse[0][r]).exp() } else { *z }).collect();
    let exact: Vec<f64> = (0..m)
        .map(|j| if s.softmax { weights[j] * (softmax_error + e.lse[1][r]) } else { z_error[j] })
        .collect();
    let s_error: Vec<f64> = (0..m).map(|j| exact[j] + u * weights[j].abs()).collect();
    let (mut mixed, mut x_error) = (f.to_vec(), vec![0.0; c]);
    for j in 1..m {
        for k in 0..c {
            let v = values[(j - 1) * c + k];
            mixed[k] += weights[j] * v;
            x_error[k] +=
                v.abs() * (s_error[j] + (sum_error::<T>(m) + 2.0) * UNIT * weights[j].abs());
        }
    }
    let x_error: Vec<f64> =
        (0..c).map(|k| x_error[k] * (1.0 + u) + 2.0 * UNIT * mixed[k].abs()).collect();
    let stored_x: Vec<f64> = (0..c).map(|k| x_error[k] + u * mixed[k].abs()).collect();
    let (mut dx0, mut d_error) = (vec![0.0; c], vec![0.0; c]);
    for i in 0..c {
        let w = &weight[i * c..(i + 1) * c];
        let y = dot(&mixed, w);
        let y_error = sizes(&stored_x, w) + long * sizes(&mixed, w);
        e.out[1][at + i] = by.abs() * (y_error + u * (y.abs() + y_error))
            + 4.0 * UNIT * (by * (y.abs() + bias[i].abs()) + f[i].abs());
        let column = column(weight, c, i);
        dx0[i] = dot(g, &column);
        let error = long * sizes(g, &column);
        d_error[i] = error + u * (dx0[i].abs() + error);
    }
    let (weights, mixed) = ([weights, exact, s_error], [mixed, x_error, stored_x]);
    Row { at, weights, mixed, dx0: [dx0, d_error] }
}

/// dz as stored, and its error.
fn score_gradients<T: Float>(s: &Rein, x: &Inputs<T>, row: &Row) -> [Vec<f64>; 2] {
    let [_, _, values, _, _, scale, _] = &x.exact;
    let (c, m, by, u) = (s.c, s.m, scale[0], f64::from(T::ROUNDING));
    let [weights, exact, _] = &row.weights;
    let [dx0, d_error] = &row.dx0;
    let (score_scale, long): (f64, f64) = (s.score_scale(), (sum_error::<T>(c) + 8.0) * UNIT);
    let (mut ds, mut ds_error) = (vec![0.0; m], vec![0.0; m]);
    for j in 1..m {
        let v = &values[(j - 1) * c..j * c];
        ds[j] = by * dot(dx0, v);
        ds_error[j] = by.abs() * (sizes(d_error, v) + long * sizes(dx0, v));
    }
    let mean = dot(weights, &ds);
    let mean_error = sizes(weights, &ds_error)
        + sizes(exact, &ds)
        + (m as f64 + 8.0) * UNIT * sizes(weights, &ds);
    let (mut dz, mut dz_error) = (vec![0.0; m], vec![0.0; m]);
    for j in 0..m {
        let (v, error) = if s.softmax {
            let error = weights[j] * (ds_error[j] + mean_error)
                + exact[j] * ((ds[j] - mean).abs() + ds_error[j] + mean_error)
                + 4.0 * UNIT * weights[j] * (ds[j].abs() + mean.abs());
            (weights[j] * (ds[j] - mean), error)
        } else {
            (ds[j], ds_error[j] + 2.0 * UNIT * ds[j].abs())
        };
        dz[j] = v * score_scale;
        dz_error[j] = (error * (1.0 + u) + u * v.abs()) * score_scale;
    }
    [dz, dz_error]
}

fn check<T: Float>(verification: &mut Verification<'_>, s: &Rein) -> Result<()> {
    let x = inputs::<T>(s);
    let Rein { b, skip, n, c, m, softmax } = *s;
    let form = if softmax { "" } else { ", no softmax" };
    let what = format!("rein{} b {b} {skip}+{n} x {c}, {m} tokens{form}", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, s, &x))?;
    verification.same(&format!("{what}: df alone"), &got.alone, &got.df);
    let e = expected(s, &x);
    verification.within(&format!("{what}: out"), &got.out, &e.out[0], |i| e.out[1][i]);
    verification.within(&format!("{what}: lse"), &got.lse, &e.lse[0], |i| e.lse[1][i]);
    verification.within(&format!("{what}: df"), &got.df, &e.df[0], |i| e.df[1][i]);
    let names = ["dtokens", "dvalues", "dweight", "dbias", "dscale"];
    for ((name, got), e) in names.iter().zip(&got.d).zip(&e.d) {
        // The addition to 0.25 rounds once more.
        verification.within(&format!("{what}: {name}"), got, &e[0], |i| e[1][i] + 2.0 * UNIT);
    }
    // The bounds are worst cases. In f32 the kernels have to be as accurate as `cpu.rs`.
    if size_of::<T>() == 4 {
        let part = |name: &str| format!("{what}: {name} of the largest");
        let near = |want: &[f64], by| by * want.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
        verification.within(&part("out"), &got.out, &e.out[0], |_| near(&e.out[0], 2e-5));
        verification.within(&part("df"), &got.df, &e.df[0], |_| near(&e.df[0], 1e-4));
        for ((name, got), e) in names.iter().zip(&got.d).zip(&e.d) {
            verification.within(&part(name), got, &e[0], |_| near(&e[0], 1e-4));
        }
    }
    let skipped = |x: &[T]| -> Vec<T> {
        x.chunks((skip + n) * c).flat_map(|image| &image[..skip * c]).copied().collect()
    };
    let [f, .., dout] = &x.wide;
    verification.same(&format!("{what}: skipped rows of out"), &skipped(&got.out), &skipped(f));
    verification.same(&format!("{what}: skipped rows of df"), &skipped(&got.df), &skipped(dout));
    Ok(())
}

/// Layer of ViT-L for four images of 512 px, with every gradient.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Rein { b: 4, skip: 1, n: 1024, c: 1024, m: 100, softmax: true };
    let (all, patches) = (s.b * (s.skip + s.n) * s.c, s.b * s.n);
    let shape = format!("b {} {}+{} x {}, {} tokens", s.b, s.skip, s.n, s.c, s.m);
    let params = parameters(&s);
    let (weights, trained) = (params[..3].iter().sum::<usize>(), params.iter().sum::<usize>());
    let f = filled::<bf16>(device, "f", all, 1)?;
    let of = Operands::new(device, &s)?;
    let (mut out, mut lse) = (device.alloc("out", all)?, device.alloc("lse", patches)?);
    let forward =
        move || s.forward_gpu(device, f.view(), of.views(), out.view_mut(), lse.view_mut());
    let (f, dout) = (filled::<bf16>(device, "f", all, 1)?, filled(device, "dout", all, 2)?);
    let of = Operands::new(device, &s)?;
    // Softmax over equal scores.
    let lse = device.upload("lse", &vec![(s.m as f32).ln(); patches])?;
    let mut df = device.alloc("df", all)?;
    let mut d = each_of_5(params, |n| device.zeros("gradient", n))?;
    let backward = move || {
        let wanted = wanted(&mut df, &mut d);
        s.backward_gpu(device, f.view(), of.views(), lse.view(), dout.view(), wanted)
    };
    let flops = [2 * patches * s.c * (s.c + 2 * s.m), 4 * patches * s.c * (s.c + 3 * s.m)];
    // Parameter gradients are f32, read and written.
    let bytes = [2 * (2 * all + weights) + 4 * patches, 2 * (3 * all + weights) + 8 * trained];
    Ok(vec![
        Timed::new("rein_fwd_bf16", shape.clone(), flops[0], bytes[0], forward),
        Timed::new("rein_bwd_bf16", shape, flops[1], bytes[1] + 4 * patches, backward),
    ])
}

/// Inputs of a timed layer other than its features.
struct Operands {
    tokens: Buffer<bf16>,
    values: Buffer<bf16>,
    weight: Buffer<bf16>,
    bias: Buffer<f32>,
    scale: Buffer<f32>,
}

impl Operands {
    fn new(device: &Device, s: &Rein) -> Result<Operands> {
        let [tokens, values, weight, bias, _] = parameters(s);
        Ok(Operands {
            tokens: filled(device, "tokens", tokens, 3)?,
            values: filled(device, "values", values, 4)?,
            weight: filled(device, "weight", weight, 5)?,
            bias: filled(device, "bias", bias, 6)?,
            scale: device.upload("scale", &[1e-3])?,
        })
    }

    fn views(&self) -> WeightsGpu<'_, bf16> {
        WeightsGpu {
            tokens: self.tokens.view(),
            values: self.values.view(),
            weight: self.weight.view(),
            bias: self.bias.view(),
            scale: self.scale.view(),
        }
    }
}
