//! Verification of convolutions on a device against the reference.

use half::bf16;

use super::{Conv2d, reference};
use crate::Result;
use crate::check::verify::{Kernels, LayerInputs, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "conv2d", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    let s = Conv2d { b: 2, h: 7, w: 5, ci: 3, co: 4, kh: 3, kw: 3, stride: 1, pad: 1 };
    for s in [
        s,
        Conv2d { ci: 8, co: 16, ..s },
        Conv2d { stride: 2, ..s },
        Conv2d { kh: 1, kw: 2, pad: 0, ..s },
        Conv2d { kh: 1, kw: 1, pad: 0, ..s },
        Conv2d { b: 1, h: 2, w: 2, ci: 1, co: 1, kh: 2, kw: 2, stride: 2, pad: 0 },
    ] {
        check::<f32>(verification, s)?;
        check::<bf16>(verification, s)?;
    }
    Ok(())
}

/// Outputs of the kernels.
#[derive(PartialEq)]
struct Outputs<T> {
    y: Vec<T>,
    dx: Vec<T>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

fn run<T: Float>(device: &Device, s: &Conv2d, of: &LayerInputs<T>) -> Result<Outputs<T>> {
    let (x, weight) = (device.upload("x", &of.x)?, device.upload("weight", &of.weight)?);
    let (dy, bias) = (device.upload("dy", &of.dy)?, device.upload("bias", &of.bias)?);
    let (mut y, mut dx) = (device.alloc("y", of.dy.len())?, device.alloc("dx", of.x.len())?);
    let mut dweight = device.upload("dweight", &of.old)?;
    let mut dbias = device.upload("dbias", &of.old[..s.co])?;
    let (x, weight, dy) = (x.view(), weight.view(), dy.view());
    s.forward_gpu(device, x, weight, Some(bias.view()), y.view_mut())?;
    let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
    s.backward_gpu(device, Some(x), weight, dy, Some(dx.view_mut()), dw, db)?;
    Ok(Outputs {
        y: device.download(y.view())?,
        dx: device.download(dx.view())?,
        dweight: device.download(dweight.view())?,
        dbias: device.download(dbias.view())?,
    })
}

fn check<T: Float>(verification: &mut Verification<'_>, s: Conv2d) -> Result<()> {
    let (ho, wo) = s.output()?;
    let (pixels, places, taps) = (s.b * s.h * s.w, s.b * ho * wo, s.kh * s.kw);
    let (x, exact_x) = stored::<T>(&noise(pixels * s.ci, 1));
    let (dy, exact_dy) = stored::<T>(&noise(places * s.co, 2));
    let (weight, exact_weight) = stored::<T>(&noise(s.co * s.ci * taps, 3));
    let (bias, old) = (noise::<f32>(s.co, 4), noise::<f32>(weight.len(), 5));
    let of = LayerInputs { x, weight, dy, bias, old };
    let what = name::<T>(&s);
    let device = verification.device();
    let got = verification.twice(&what, || run(device, &s, &of))?;
    let (mut y, mut dx) = (vec![0.0; places * s.co], vec![0.0; pixels * s.ci]);
    let bias = wide(&of.bias);
    reference::forward(&s, &exact_x, &exact_weight, Some(&bias), &mut y)?;
    let (mut dweight, mut dbias) = (wide(&of.old), wide(&of.old[..s.co]));
    let (x, w) = (&exact_x, &exact_weight);
    reference::backward(&s, x, w, &exact_dy, &mut dx, &mut dweight, &mut dbias)?;
    // Sums of `terms` products below 1; the product is stored before the bias is added.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    let y_sum = sum(taps * s.ci);
    verification.within(&format!("{what}: y"), &got.y, &y, |i| {
        y_sum + f64::from(T::ROUNDING) * (y[i].abs() + bias[i % s.co].abs() + y_sum)
    });
    verification.within(&format!("{what}: dx"), &got.dx, &dx, |_| sum(taps * s.co));
    verification.within(&format!("{what}: dweight"), &got.dweight, &dweight, |_| sum(places));
    verification.within(&format!("{what}: dbias"), &got.dbias, &dbias, |_| sum(places));
    Ok(())
}

/// Name such as `conv2d_f32 [2, 7, 5, 3] by [4, 3, 3, 3] / 1`: `x`, the weight and the stride.
fn name<T: Float>(s: &Conv2d) -> String {
    let Conv2d { b, h, w, ci, co, kh, kw, stride, pad } = s;
    format!(
        "conv2d{} [{b}, {h}, {w}, {ci}] + {pad} by [{co}, {ci}, {kh}, {kw}] / {stride}",
        T::SUFFIX
    )
}

/// Finest map of the pixel decoder for four 512 px images.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Conv2d { b: 4, h: 128, w: 128, ci: 256, co: 256, kh: 3, kw: 3, stride: 1, pad: 1 };
    let (map, weights) = (s.b * s.h * s.w * s.ci, s.co * s.ci * s.kh * s.kw);
    let x = filled::<bf16>(device, "x", map, 1)?;
    let weight = filled::<bf16>(device, "weight", weights, 2)?;
    let bias = filled::<f32>(device, "bias", s.co, 3)?;
    let mut y = device.alloc::<bf16>("y", map)?;
    let forward =
        move || s.forward_gpu(device, x.view(), weight.view(), Some(bias.view()), y.view_mut());
    let x = filled::<bf16>(device, "x", map, 1)?;
    let weight = filled::<bf16>(device, "weight", weights, 2)?;
    let dy = filled::<bf16>(device, "dy", map, 4)?;
    let mut dx = device.alloc::<bf16>("dx", map)?;
    let mut dweight = device.zeros::<f32>("dweight", weights)?;
    let mut dbias = device.zeros::<f32>("dbias", s.co)?;
    let backward = move || {
        let (dx, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let (x, db) = (Some(x.view()), Some(dbias.view_mut()));
        s.backward_gpu(device, x, weight.view(), dy.view(), dx, dw, db)
    };
    let (flops, shape) =
        (2 * map / s.ci * weights, format!("[{}, {}, {}, {}]", s.b, s.h, s.w, s.ci));
    // Maps and the weight in two bytes; the gradient of the weight is added to in f32.
    let bytes = [4 * map + 2 * weights, 6 * map + 10 * weights];
    Ok(vec![
        Timed::new("conv2d_fwd_bf16", shape.clone(), flops, bytes[0], forward),
        Timed::new("conv2d_bwd_bf16", shape, 2 * flops, bytes[1], backward),
    ])
}
