//! Verification of the per-pixel loss on a device against the reference in f64.

use half::bf16;

use super::{PixelLoss, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{EXPF, UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "pixel_loss", verify, timed };

/// Incoming gradient.
const DLOSS: f32 = 0.375;

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for [b, k, n] in [[1, 1, 1], [2, 19, 301], [3, 5, 100], [1, 300, 40]] {
        let s = PixelLoss { b, k, n, weight: 2.0 };
        check::<f32>(verification, s)?;
        check::<bf16>(verification, s)?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: PixelLoss) -> Result<()> {
    let PixelLoss { b, k, n, .. } = s;
    let x: Vec<f32> = noise::<f32>(b * k * n, 1).iter().map(|v| 6.0 * v).collect();
    let (x, exact) = stored::<T>(&x);
    let label = |i: usize| if i % 5 == 3 { 255 } else { (i * 7 % k.min(255)) as u8 };
    let labels: Vec<u8> = (0..b * n).map(label).collect();
    let what = format!("pixel_loss{} [{b}, {k}, {n}]", T::SUFFIX);
    let device = verification.device();
    let (lse, loss, dx) = verification.twice(&what, || {
        let (x, labels) = (device.upload("x", &x)?, device.upload("labels", &labels)?);
        let (mut lse, mut loss) = (device.alloc("lse", b * n)?, device.alloc("loss", 1)?);
        let (dloss, mut dx) = (device.upload("dloss", &[DLOSS])?, device.alloc("dx", b * k * n)?);
        let (x, labels) = (x.view(), labels.view());
        s.forward_gpu(device, x, labels, lse.view_mut(), loss.view_mut())?;
        s.backward_gpu(device, x, labels, lse.view(), dloss.view(), dx.view_mut())?;
        Ok((
            device.download(lse.view())?,
            device.download(loss.view())?,
            device.download(dx.view())?,
        ))
    })?;
    let (mut want_lse, mut want_dx) = (vec![0.0; b * n], vec![0.0; b * k * n]);
    let want = reference::forward(&s, &exact, &labels, &mut want_lse);
    reference::backward(&s, &exact, &labels, &want_lse, f64::from(DLOSS), &mut want_dx);
    // Each class has an addition and perhaps a rescaling, each with an exponential whose argument
    // of up to 12 is rounded; then the logarithm and the sum.
    let of_lse = |lse: f64| ((k as f64 + 1.0) * (2.0 + EXPF + 12.0) + 4.0 + lse.abs()) * UNIT;
    verification.within(&format!("{what}: lse"), &lse, &want_lse, |i| of_lse(want_lse[i]));
    // Sums of a warp, of the warps and of the blocks, of terms up to 12 + log k.
    let depth = 5.0 + 8.0 + 2.0 + (b * n).div_ceil(256) as f64;
    let term = 12.0 + (k as f64).ln();
    verification.within(&format!("{what}: loss"), &loss, &[want], |_| {
        2.0 * (of_lse(term) + depth * UNIT * term)
    });
    verification.within(&format!("{what}: dx"), &dx, &want_dx, |i| {
        let d = 2.0 * f64::from(DLOSS) / (b * n) as f64;
        d * (of_lse(want_lse[i / (k * n) * n + i % n]) + (12.0 + EXPF + 4.0) * UNIT)
    });
    Ok(())
}

/// Logits of four crops of 512 px and the classes of Cityscapes.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = PixelLoss { b: 4, k: 19, n: 512 * 512, weight: 1.0 };
    let (pixels, all) = (s.b * s.n, s.b * s.k * s.n);
    let labels: Vec<u8> = (0..pixels).map(|i| (i / 64 % s.k) as u8).collect();
    let shape = format!("[{}, {}, {}]", s.b, s.k, s.n);
    let (x, classes) = (filled::<f32>(device, "x", all, 1)?, device.upload("labels", &labels)?);
    let (mut lse, mut loss) = (device.alloc("lse", pixels)?, device.alloc("loss", 1)?);
    let forward =
        move || s.forward_gpu(device, x.view(), classes.view(), lse.view_mut(), loss.view_mut());
    let (x, classes) = (filled::<f32>(device, "x", all, 1)?, device.upload("labels", &labels)?);
    let (lse, dloss) = (filled::<f32>(device, "lse", pixels, 2)?, device.upload("d", &[DLOSS])?);
    let mut dx = device.alloc::<f32>("dx", all)?;
    let backward = move || {
        let (lse, dloss) = (lse.view(), dloss.view());
        s.backward_gpu(device, x.view(), classes.view(), lse, dloss, dx.view_mut())
    };
    Ok(vec![
        Timed::new("pixel_loss_fwd_f32", shape.clone(), 5 * all, 4 * all + 5 * pixels, forward),
        Timed::new("pixel_loss_bwd_f32", shape, 4 * all, 8 * all + 5 * pixels, backward),
    ])
}
