//! Verification of the class loss on a device against the CPU in f64.

use half::bf16;

use super::ClassLoss;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{EXPF, UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "class_loss", verify, timed };

/// Incoming gradient.
const DLOSS: f32 = 0.375;

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, k) in [(1, 1), (7, 5), (101, 20), (13, 151)] {
        check::<f32>(verification, n, k)?;
        check::<bf16>(verification, n, k)?;
    }
    padded(verification)
}

/// Loss and gradient.
fn run<T: Float>(
    device: &Device,
    s: &ClassLoss,
    x: &[T],
    targets: &[i32],
    weights: &[f32],
) -> Result<(Vec<f32>, Vec<T>)> {
    let (x, targets) = (device.upload("x", x)?, device.upload("targets", targets)?);
    let weights = device.upload("weights", weights)?;
    let dloss = device.upload("dloss", &[DLOSS])?;
    let (mut loss, mut scale) = (device.alloc("loss", 1)?, device.alloc("scale", 1)?);
    let mut dx = device.alloc("dx", s.n * s.k)?;
    let (x, t, w) = (x.view(), targets.view(), weights.view());
    s.forward_gpu(device, x, t, w, loss.view_mut(), scale.view_mut())?;
    s.backward_gpu(device, x, t, w, scale.view(), dloss.view(), dx.view_mut())?;
    Ok((device.download(loss.view())?, device.download(dx.view())?))
}

fn check<T: Float>(verification: &mut Verification<'_>, n: usize, k: usize) -> Result<()> {
    let s = ClassLoss { n, k, weight: 2.0 };
    let x: Vec<f32> = noise::<f32>(n * k, 1).iter().map(|v| 6.0 * v).collect();
    let (x, exact) = stored::<T>(&x);
    let targets: Vec<i32> = (0..n).map(|i| (i * 3 % k) as i32).collect();
    let weights: Vec<f32> = noise::<f32>(k, 2).iter().map(|w| w.abs() + 0.1).collect();
    let (weights, exact_weights) = stored::<f32>(&weights);
    let what = format!("class_loss{} [{n}, {k}]", T::SUFFIX);
    let device = verification.device();
    let (got, got_dx) = verification.twice(&what, || run(device, &s, &x, &targets, &weights))?;
    let loss = s.forward(&exact, &targets, &exact_weights)?;
    let mut dx = vec![0.0; n * k];
    s.backward(&exact, &targets, &exact_weights, f64::from(DLOSS), &mut dx)?;
    // One sum over the classes and one over the rows of a warp and the warps; the arguments of expf
    // are up to 12 and have their own rounding error.
    let row = k.div_ceil(32) as f64 + 5.0 + EXPF + 12.0;
    let depth = row + n.div_ceil(8) as f64 + 8.0 + 4.0;
    verification.within(&format!("{what}: loss"), &got, &[loss], |_| depth * UNIT * (loss + 24.0));
    verification.within(&format!("{what}: dx"), &got_dx, &dx, |i| {
        // p - 1 cancels: its error is that of p, in proportion to the weight.
        let y = targets[i / k] as usize;
        let total: f64 = targets.iter().map(|&y| exact_weights[y as usize]).sum();
        (depth + row) * UNIT * f64::from(DLOSS) * 2.0 * exact_weights[y] / total
    });
    Ok(())
}

/// Checks that a row without a class is ignored.
fn padded(verification: &mut Verification<'_>) -> Result<()> {
    let (x, weights) = (noise::<f32>(9, 1), [1.0, 0.5, 0.1]);
    let s = |n| ClassLoss { n, k: 3, weight: 2.0 };
    let (loss, dx) = run(verification.device(), &s(2), &x[..6], &[1, 0], &weights)?;
    let (padded_loss, padded) = run(verification.device(), &s(3), &x, &[1, 0, -1], &weights)?;
    verification.same("class_loss_f32 [2 + 1, 3]: loss without the row", &padded_loss, &loss);
    let want = [&dx[..], &[0.0; 3]].concat();
    verification.same("class_loss_f32 [2 + 1, 3]: dx is zero there", &padded, &want);
    Ok(())
}

/// Queries of four images and the classes of Cityscapes; far below the cost of a launch.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = ClassLoss { n: 400, k: 20, weight: 2.0 };
    let all = s.n * s.k;
    let operands = || -> Result<_> {
        let targets: Vec<i32> = (0..s.n).map(|i| (i % s.k) as i32).collect();
        let weights = device.upload("weights", &vec![1.0f32; s.k])?;
        Ok((filled::<f32>(device, "x", all, 1)?, device.upload("targets", &targets)?, weights))
    };
    let (x, targets, weights) = operands()?;
    let (mut loss, mut scale) = (device.alloc("loss", 1)?, device.alloc("scale", 1)?);
    let forward = move || {
        let (t, w) = (targets.view(), weights.view());
        s.forward_gpu(device, x.view(), t, w, loss.view_mut(), scale.view_mut())
    };
    let (x, targets, weights) = operands()?;
    let (scale, dloss) = (device.upload("scale", &[0.01f32])?, device.upload("dloss", &[DLOSS])?);
    let mut dx = device.alloc::<f32>("dx", all)?;
    let backward = move || {
        let (t, w, scale) = (targets.view(), weights.view(), scale.view());
        s.backward_gpu(device, x.view(), t, w, scale, dloss.view(), dx.view_mut())
    };
    let (shape, little) = (format!("[{}, {}]", s.n, s.k), 4 * (s.n + s.k + 2));
    Ok(vec![
        Timed::new("class_loss_fwd_f32", shape.clone(), 4 * all, 4 * all + little, forward),
        Timed::new("class_loss_bwd_f32", shape, 6 * all, 8 * all + little, backward),
    ])
}
