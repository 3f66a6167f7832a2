//! Verification of softmax on a device against the reference.

use half::bf16;

use super::{OP, Softmax, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{EXPF, UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: OP, verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, c) in [(1, 1), (9, 20), (3, 33), (2, 4099)] {
        check::<f32>(verification, Softmax { n, c })?;
        check::<bf16>(verification, Softmax { n, c })?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: Softmax) -> Result<()> {
    let all = s.n * s.c;
    // Scores reach tens, so that the maximum must be subtracted.
    let x: Vec<f32> = noise::<f32>(all, 1).iter().map(|x| 20.0 * x).collect();
    let ((x, exact_x), (dy, exact_dy)) = (stored::<T>(&x), stored::<T>(&noise(all, 2)));
    let what = format!("softmax{} [{}, {}]", T::SUFFIX, s.n, s.c);
    let device = verification.device();
    let (y, dx) = verification.twice(&what, || {
        let (x, dy) = (device.upload("x", &x)?, device.upload("dy", &dy)?);
        let (mut y, mut dx) = (device.alloc("y", all)?, device.alloc("dx", all)?);
        s.forward_gpu(device, x.view(), y.view_mut())?;
        s.backward_gpu(device, y.view(), dy.view(), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (mut want_y, mut want_dx) = (vec![0.0; all], vec![0.0; all]);
    reference::forward(&s, &exact_x, &mut want_y);
    let got_y: Vec<f64> = y.iter().map(|y| f64::from(y.f32())).collect();
    reference::backward(&s, &got_y, &exact_dy, &mut want_dx);
    // x - top is rounded, by at most a unit of 40, and so is expf, both in numerator and
    // denominator. Then additions of a lane and of the warp; the quotient has two operations.
    let depth = s.c.div_ceil(32) as f64 + 5.0;
    let unit = (2.0 * (40.0 + EXPF) + depth + 2.0) * UNIT;
    verification.within(&format!("{what}: y"), &y, &want_y, |i| unit * want_y[i]);
    // Computed from the y of the device: an inner product, a difference, a product.
    verification.within(&format!("{what}: dx"), &dx, &want_dx, |i| {
        let row = i / s.c * s.c..(i / s.c + 1) * s.c;
        let sizes: f64 = row.map(|j| (got_y[j] * exact_dy[j]).abs()).sum();
        UNIT * got_y[i] * ((depth + 3.0) * sizes + 2.0 * exact_dy[i].abs())
    });
    Ok(())
}

/// Wide rows, which are memory-bound, and the class logits of four images.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut all = Vec::new();
    for (n, c) in [(4096, 4096), (400, 20)] {
        let (s, len, shape) = (Softmax { n, c }, n * c, format!("[{n}, {c}]"));
        let x = filled::<bf16>(device, "x", len, 1)?;
        let mut y = device.alloc::<bf16>("y", len)?;
        let run = move || s.forward_gpu(device, x.view(), y.view_mut());
        all.push(Timed::new("softmax_fwd_bf16", shape.clone(), 5 * len, 4 * len, run));
        let (y, dy) = (filled::<bf16>(device, "y", len, 1)?, filled::<bf16>(device, "dy", len, 2)?);
        let mut dx = device.alloc::<bf16>("dx", len)?;
        let run = move || s.backward_gpu(device, y.view(), dy.view(), dx.view_mut());
        all.push(Timed::new("softmax_bwd_bf16", shape, 4 * len, 6 * len, run));
    }
    Ok(all)
}
