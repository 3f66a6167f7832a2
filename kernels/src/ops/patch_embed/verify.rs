//! Verification of patch embedding on a device against the reference.

use half::bf16;

use super::{PatchEmbed, reference};
use crate::Result;
use crate::check::verify::{Kernels, LayerInputs, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "patch_embed", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One pixel, sides of several small patches, the patch size of the published weights.
    for (b, channels, h, w, p, c) in [(1, 1, 1, 1, 1, 1), (2, 3, 6, 9, 3, 5), (1, 3, 28, 14, 14, 8)]
    {
        check::<f32>(verification, PatchEmbed { b, channels, h, w, p, c })?;
        check::<bf16>(verification, PatchEmbed { b, channels, h, w, p, c })?;
    }
    Ok(())
}

/// y, dx, dweight, dbias.
type Outputs<T> = (Vec<T>, Vec<T>, Vec<f32>, Vec<f32>);

fn run<T: Float>(device: &Device, s: &PatchEmbed, of: &LayerInputs<T>) -> Result<Outputs<T>> {
    let (x, dy) = (device.upload("x", &of.x)?, device.upload("dy", &of.dy)?);
    let (weight, bias) = (device.upload("weight", &of.weight)?, device.upload("bias", &of.bias)?);
    let (x, weight, dy) = (x.view(), weight.view(), dy.view());
    let (mut y, mut dx) = (device.alloc("y", of.dy.len())?, device.alloc("dx", of.x.len())?);
    s.forward_gpu(device, x, weight, Some(bias.view()), y.view_mut())?;
    let mut dweight = device.upload("dweight", &of.old)?;
    let mut dbias = device.upload("dbias", &of.old[..s.c])?;
    let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
    s.backward_gpu(device, Some(x), weight, dy, Some(dx.view_mut()), dw, db)?;
    let (dweight, dbias) = (device.download(dweight.view())?, device.download(dbias.view())?);
    Ok((device.download(y.view())?, device.download(dx.view())?, dweight, dbias))
}

fn check<T: Float>(verification: &mut Verification<'_>, s: PatchEmbed) -> Result<()> {
    let (gh, gw) = s.grid()?;
    let (tokens, width) = (s.b * gh * gw, s.channels * s.p * s.p);
    let (x, exact_x) = stored::<T>(&noise(tokens * width, 1));
    let (dy, exact_dy) = stored::<T>(&noise(tokens * s.c, 2));
    let (weight, exact_weight) = stored::<T>(&noise(s.c * width, 3));
    let of = LayerInputs { x, weight, dy, bias: noise(s.c, 4), old: noise(s.c * width, 5) };
    let PatchEmbed { b, channels, h, w, p, c } = s;
    let what = format!("patch_embed{} {b} x {channels} x {h}x{w}, {p}x{p} to {c}", T::SUFFIX);
    let device = verification.device();
    let (got_y, got_dx, got_dweight, got_dbias) =
        verification.twice(&what, || run(device, &s, &of))?;
    let (mut y, bias) = (vec![0.0; tokens * s.c], wide(&of.bias));
    reference::forward(&s, &exact_x, &exact_weight, Some(&bias), &mut y)?;
    let (mut dx, mut dweight) = (vec![0.0; tokens * width], wide(&of.old));
    let (x, w, mut dbias) = (&exact_x, &exact_weight, wide(&of.old[..s.c]));
    reference::backward(&s, x, w, &exact_dy, &mut dx, &mut dweight, &mut dbias)?;
    // Sums of `terms` products below 1; the product is stored before the bias is added.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    verification.within(&format!("{what}: y"), &got_y, &y, |i| {
        let stored = y[i].abs() + bias[i % s.c].abs() + sum(width);
        sum(width) + f64::from(T::ROUNDING) * stored
    });
    verification.within(&format!("{what}: dx"), &got_dx, &dx, |_| sum(s.c));
    verification.within(&format!("{what}: dweight"), &got_dweight, &dweight, |_| sum(tokens));
    verification.within(&format!("{what}: dbias"), &got_dbias, &dbias, |_| sum(tokens));
    Ok(())
}

/// Four images of 512 px for ViT-L: forward, and the gradients of weight and bias.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = PatchEmbed { b: 4, channels: 3, h: 512, w: 512, p: 16, c: 1024 };
    let linear = s.linear()?;
    let (pixels, tokens, weights) = (linear.n * linear.k, linear.n * s.c, linear.k * s.c);
    let flops = 2 * pixels * s.c;
    let shape = format!("{} x {} x {}x{}, 16x16 to {}", s.b, s.channels, s.h, s.w, s.c);
    let x = filled::<bf16>(device, "x", pixels, 1)?;
    let weight = filled(device, "weight", weights, 2)?;
    let (bias, mut y) = (filled(device, "bias", s.c, 3)?, device.alloc("y", tokens)?);
    let forward =
        move || s.forward_gpu(device, x.view(), weight.view(), Some(bias.view()), y.view_mut());
    let (x, dy) = (filled::<bf16>(device, "x", pixels, 1)?, filled(device, "dy", tokens, 4)?);
    let weight = filled(device, "weight", weights, 2)?;
    let mut dweight = device.zeros("dweight", weights)?;
    let mut dbias = device.zeros("dbias", s.c)?;
    let backward = move || {
        let (dw, db) = (Some(dweight.view_mut()), Some(dbias.view_mut()));
        s.backward_gpu(device, Some(x.view()), weight.view(), dy.view(), None, dw, db)
    };
    // Parameter gradients are f32, read and written.
    let bytes =
        [2 * (pixels + weights + tokens) + 4 * s.c, 2 * (pixels + tokens) + 8 * (weights + s.c)];
    Ok(vec![
        Timed::new("patch_embed_fwd_bf16", shape.clone(), flops, bytes[0], forward),
        Timed::new("patch_embed_bwd_bf16", shape, flops, bytes[1], backward),
    ])
}
