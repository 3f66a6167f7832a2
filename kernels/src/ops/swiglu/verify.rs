//! Verification of the gate of a SwiGLU layer on a device against the reference.

use half::bf16;

use super::{Swiglu, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{EXPF, UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "swiglu", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One element, no whole vector, whole vectors of one and of two blocks of columns.
    for (n, h) in [(1, 1), (7, 13), (37, 256), (3, 264)] {
        check::<f32>(verification, n, h)?;
        check::<bf16>(verification, n, h)?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, n: usize, h: usize) -> Result<()> {
    let s = Swiglu { n, h };
    let x: Vec<f32> = noise::<f32>(2 * n * h, 1).iter().map(|x| 8.0 * x).collect();
    let ((x, exact_x), (dy, exact_dy)) = (stored::<T>(&x), stored::<T>(&noise(n * h, 2)));
    let what = format!("swiglu{} [{n}, 2 x {h}]", T::SUFFIX);
    let device = verification.device();
    let (got_y, got_dx) = verification.twice(&what, || {
        let (x, dy) = (device.upload("x", &x)?, device.upload("dy", &dy)?);
        let (mut y, mut dx) = (device.alloc("y", n * h)?, device.alloc("dx", 2 * n * h)?);
        s.forward_gpu(device, x.view(), y.view_mut())?;
        s.backward_gpu(device, x.view(), dy.view(), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (mut y, mut dx) = (vec![0.0; n * h], vec![0.0; 2 * n * h]);
    reference::forward(&s, &exact_x, &mut y);
    reference::backward(&s, &exact_x, &exact_dy, &mut dx);
    // expf, a sum, a quotient and a product; the last product is rounded to the storage type.
    // 1 - sigmoid(u) cancels, so its error is that of the sigmoid, multiplied by u.
    let unit = (EXPF + 3.0) * UNIT;
    verification.within::<T>(&format!("{what}: y"), &got_y, &y, |i| unit * y[i].abs());
    verification.within::<T>(&format!("{what}: dx"), &got_dx, &dx, |i| {
        let (row, j) = (i / (2 * h), i % h);
        let (u, v) = (exact_x[row * 2 * h + j], exact_x[row * 2 * h + h + j]);
        2.0 * unit * exact_dy[row * h + j].abs() * (v.abs() * (1.0 + u.abs()) + u.abs())
    });
    Ok(())
}

/// Gate of DINOv2-g on tokens of four images of 512 px.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Swiglu { n: 4 * 1025, h: 4096 };
    let all = s.n * s.h;
    let shape = format!("[{}, 2 x {}]", s.n, s.h);
    let x = filled::<bf16>(device, "x", 2 * all, 1)?;
    let mut y = device.alloc("y", all)?;
    let forward = move || s.forward_gpu(device, x.view(), y.view_mut());
    let (x, dy) = (filled::<bf16>(device, "x", 2 * all, 1)?, filled(device, "dy", all, 2)?);
    let mut dx = device.alloc("dx", 2 * all)?;
    let backward = move || s.backward_gpu(device, x.view(), dy.view(), dx.view_mut());
    Ok(vec![
        Timed::new("swiglu_fwd_bf16", shape.clone(), 12 * all, 2 * 3 * all, forward),
        Timed::new("swiglu_bwd_bf16", shape, 20 * all, 2 * 5 * all, backward),
    ])
}
