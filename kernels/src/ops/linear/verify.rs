//! Verification of linear layers on a device against the reference.

use half::bf16;

use super::{Linear, reference};
use crate::Result;
use crate::check::verify::{Kernels, LayerInputs, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::sizes::RowSplit;
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "linear", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, m, k) in [(1, 1, 1), (7, 13, 5), (70, 24, 40)] {
        check::<f32>(verification, n, m, k)?;
        check::<bf16>(verification, n, m, k)?;
    }
    Ok(())
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    /// `y` with ReLU
    positive: Vec<T>,
    dx: Vec<T>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

fn run<T: Float>(device: &Device, s: &Linear, of: &LayerInputs<T>) -> Result<Outputs<T>> {
    let (x, weight) = (device.upload("x", &of.x)?, device.upload("weight", &of.weight)?);
    let (dy, bias) = (device.upload("dy", &of.dy)?, device.upload("bias", &of.bias)?);
    let (mut y, mut dx) = (device.alloc("y", of.dy.len())?, device.alloc("dx", of.x.len())?);
    let mut dweight = device.upload("dweight", &of.old)?;
    let mut dbias = device.upload("dbias", &of.old[..s.m])?;
    let (x, weight, dy) = (x.view(), weight.view(), dy.view());
    s.forward_gpu(device, x, weight, Some(bias.view()), y.view_mut())?;
    let mut positive = device.alloc("positive", of.dy.len())?;
    s.forward_relu_gpu(device, x, weight, bias.view(), positive.view_mut())?;
    let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
    s.backward_gpu(device, Some(x), weight, dy, Some(dx.view_mut()), dw, db)?;
    Ok(Outputs {
        y: device.download(y.view())?,
        positive: device.download(positive.view())?,
        dx: device.download(dx.view())?,
        dweight: device.download(dweight.view())?,
        dbias: device.download(dbias.view())?,
    })
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    m: usize,
    k: usize,
) -> Result<()> {
    let s = Linear { n, m, k };
    let (x, exact_x) = stored::<T>(&noise(n * k, 1));
    let (weight, exact_weight) = stored::<T>(&noise(m * k, 2));
    let (dy, exact_dy) = stored::<T>(&noise(n * m, 3));
    let of = LayerInputs { x, weight, dy, bias: noise(m, 4), old: noise(m * k, 5) };
    let what = format!("linear{} [{n}, {m}, {k}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, &of))?;
    let bias = wide(&of.bias);
    let (mut y, mut dx) = (vec![0.0; n * m], vec![0.0; n * k]);
    let (mut dweight, mut dbias) = (wide(&of.old), wide(&of.old[..m]));
    reference::forward(&s, &exact_x, &exact_weight, Some(&bias), &mut y);
    let (dx_out, dw, db) = (Some(&mut dx[..]), Some(&mut dweight[..]), Some(&mut dbias[..]));
    s.backward(Some(&exact_x), &exact_weight, &exact_dy, dx_out, dw, db)?;
    // Sums of `terms` products below 1. With an epilogue the bias and the sum are rounded to the
    // type, without one the product and the sum.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    let twice = f64::from(T::ROUNDING);
    let forward = |i: usize| sum(k) + twice * (y[i].abs() + bias[i % m].abs() + sum(k));
    verification.within(&format!("{what}: y"), &got.y, &y, forward);
    let positive: Vec<f64> = y.iter().map(|y| y.max(0.0)).collect();
    verification.within(&format!("{what}: y with ReLU"), &got.positive, &positive, forward);
    verification.within(&format!("{what}: dx"), &got.dx, &dx, |_| sum(m));
    verification.within(&format!("{what}: dweight"), &got.dweight, &dweight, |_| sum(n));
    // Summed one after the other or in row splits.
    let depth = RowSplit::of(n).depth().max(n as f64) + 1.0;
    let bound = |_| depth * UNIT * (n + 1) as f64;
    verification.within(&format!("{what}: dbias"), &got.dbias, &dbias, bound);
    Ok(())
}

/// First layer of the MLP of ViT-L on four 512 px images: forward, backward if frozen, backward if
/// trained.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Linear { n: 4 * 1025, m: 4096, k: 1024 };
    let (xs, ws, ys) = (s.n * s.k, s.m * s.k, s.n * s.m);
    let operand = |name, len, seed| filled::<bf16>(device, name, len, seed);
    let (x, weight) = (operand("x", xs, 1)?, operand("weight", ws, 2)?);
    let bias = filled::<f32>(device, "bias", s.m, 3)?;
    let mut y = device.alloc::<bf16>("y", ys)?;
    let forward =
        move || s.forward_gpu(device, x.view(), weight.view(), Some(bias.view()), y.view_mut());
    let (weight, dy) = (operand("weight", ws, 2)?, operand("dy", ys, 4)?);
    let mut dx = device.alloc::<bf16>("dx", xs)?;
    let frozen = move || {
        let dx = Some(dx.view_mut());
        s.backward_gpu(device, None, weight.view(), dy.view(), dx, None, None)
    };
    let (x, weight, dy) = (operand("x", xs, 1)?, operand("weight", ws, 2)?, operand("dy", ys, 4)?);
    let mut dx = device.alloc::<bf16>("dx", xs)?;
    let mut dweight = device.zeros::<f32>("dweight", ws)?;
    let mut dbias = device.zeros::<f32>("dbias", s.m)?;
    let trained = move || {
        let (dx, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let (x, db) = (Some(x.view()), Some(dbias.view_mut()));
        s.backward_gpu(device, x, weight.view(), dy.view(), dx, dw, db)
    };
    let (flops, shape) = (2 * s.n * s.m * s.k, format!("[{}, {}, {}]", s.n, s.m, s.k));
    let bytes = 2 * (xs + ws + ys);
    // The gradient of the weight is added to in f32.
    let trained_bytes = bytes + 2 * xs + 8 * ws;
    Ok(vec![
        Timed::new("linear_fwd_bf16", shape.clone(), flops, bytes, forward),
        Timed::new("linear_bwd_frozen_bf16", shape.clone(), flops, bytes, frozen),
        Timed::new("linear_bwd_bf16", shape, 2 * flops, trained_bytes, trained),
    ])
}
