//! Verification of the mask losses on a device against the CPU in f64.

use half::bf16;

use super::{MaskLoss, MaskLosses, Pairs};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "mask_loss", verify, timed };

/// Pairs that the losses are divided by.
const NUM: f32 = 3.5;

/// Incoming gradients of both losses.
const D: MaskLosses<f64> = MaskLosses { mask: 0.75, dice: -1.25 };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (r, p, padding) in [(1, 1, 0), (3, 13, 0), (5, 1000, 2), (300, 7, 1)] {
        check::<f32>(verification, r, p, padding)?;
        check::<bf16>(verification, r, p, padding)?;
    }
    Ok(())
}

/// Returns the losses and the gradient of `x`; `padding` pairs at the end have weight 0.
fn run<T: Float>(
    device: &Device,
    s: &MaskLoss,
    padding: usize,
    x: &[T],
    t: &[f32],
) -> Result<(Vec<f32>, Vec<T>)> {
    let (x, t) = (device.upload("x", x)?, device.upload("t", t)?);
    let weights: Vec<f32> = (0..s.r).map(|i| f32::from(i + padding < s.r)).collect();
    let weights = device.upload("weights", &weights)?;
    let num = device.upload("num", &[NUM])?;
    let dlosses = device.upload("dlosses", &[D.mask as f32, D.dice as f32])?;
    let weights = (padding > 0).then(|| weights.view());
    let pairs = Pairs { x: x.view(), t: t.view(), weights, num: num.view() };
    let (mut sums, mut losses) = (device.alloc("sums", 4 * s.r)?, device.alloc("losses", 2)?);
    let mut dx = device.alloc("dx", s.r * s.p)?;
    s.forward_gpu(device, pairs, sums.view_mut(), losses.view_mut())?;
    s.backward_gpu(device, pairs, sums.view(), dlosses.view(), dx.view_mut())?;
    Ok((device.download(losses.view())?, device.download(dx.view())?))
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    r: usize,
    p: usize,
    padding: usize,
) -> Result<()> {
    let all = r + padding;
    let x: Vec<f32> = noise::<f32>(all * p, 1).iter().map(|v| 9.0 * v).collect();
    let (x, exact_x) = stored::<T>(&x);
    // Targets are mostly 0 or 1, with intermediate values as from sampling.
    let t: Vec<f32> = noise::<f32>(all * p, 2).iter().map(|v| (2.0 * v).clamp(0.0, 1.0)).collect();
    let what = format!("mask_loss{} [{r} + {padding}, {p}]", T::SUFFIX);
    let device = verification.device();
    let (got, got_dx) =
        verification.twice(&what, || run(device, &MaskLoss::new(all, p), padding, &x, &t))?;
    let (s, num) = (MaskLoss::new(r, p), f64::from(NUM));
    let (exact_x, exact_t) = (&exact_x[..r * p], &wide(&t[..r * p]));
    let (mut sums, mut dx) = (vec![0.0; 3 * r], vec![0.0; r * p]);
    let losses = s.forward(exact_x, exact_t, num, &mut sums)?;
    s.backward(exact_x, exact_t, num, &sums, D, &mut dx)?;
    dx.resize(all * p, 0.0);
    // Sums over the points of a thread, a warp, the warps, then over the pairs; about twelve
    // operations and functions per term. Terms of the cross-entropy are differences of values up to
    // 9.
    let depth = p.div_ceil(256) as f64 + 5.0 + 8.0 + 12.0 + all.div_ceil(256) as f64 + 13.0;
    let size: f64 = exact_x.iter().map(|x| 2.0 * x.abs() + 1.0).sum();
    let bounds = [5.0 / num / p as f64 * size, 5.0 / num * 2.0 * r as f64];
    let want = [losses.mask, losses.dice];
    verification.within(&format!("{what}: losses"), &got, &want, |i| depth * UNIT * bounds[i]);
    verification.within(&format!("{what}: dx"), &got_dx, &dx, |i| {
        if i >= r * p {
            return 0.0;
        }
        let den = sums[i / p * 3] + sums[i / p * 3 + 1] + 1.0;
        let mask = D.mask.abs() * 5.0 / num / p as f64;
        let dice = D.dice.abs() * 5.0 / num * 3.0 / den;
        2.0 * depth * UNIT * (mask + dice)
    });
    Ok(())
}

/// Twenty matched masks in each of four images at the points of the recipe.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = MaskLoss::new(80, 12544);
    let all = s.r * s.p;
    let operands = || -> Result<_> {
        let (x, t) = (filled::<f32>(device, "x", all, 1)?, device.zeros::<f32>("t", all)?);
        Ok((x, t, device.upload("num", &[s.r as f32])?))
    };
    let (x, t, num) = operands()?;
    let mut sums = device.alloc("sums", 4 * s.r)?;
    let mut losses = device.alloc("losses", 2)?;
    let forward = move || {
        let pairs = Pairs { x: x.view(), t: t.view(), weights: None, num: num.view() };
        s.forward_gpu(device, pairs, sums.view_mut(), losses.view_mut())
    };
    let (x, t, num) = operands()?;
    let sums = device.upload("sums", &vec![100.0f32; 4 * s.r])?;
    let dlosses = device.upload("dlosses", &[1.0f32, 1.0])?;
    let mut dx = device.alloc::<f32>("dx", all)?;
    let backward = move || {
        let pairs = Pairs { x: x.view(), t: t.view(), weights: None, num: num.view() };
        s.backward_gpu(device, pairs, sums.view(), dlosses.view(), dx.view_mut())
    };
    let shape = format!("[{}, {}]", s.r, s.p);
    Ok(vec![
        Timed::new("mask_loss_fwd_f32", shape.clone(), 20 * all, 8 * all, forward),
        Timed::new("mask_loss_bwd_f32", shape, 20 * all, 12 * all, backward),
    ])
}
