//! Verification of transposition on a device: a copy, so equality is required.

use half::bf16;

use super::{Transpose, reference};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "transpose", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (b, n, m) in [(1, 1, 1), (2, 37, 19), (3, 64, 33), (1, 5, 100)] {
        check::<f32>(verification, Transpose { b, n, m })?;
        check::<bf16>(verification, Transpose { b, n, m })?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: Transpose) -> Result<()> {
    let all = s.b * s.n * s.m;
    let (x, exact) = stored::<T>(&noise(all, 1));
    let what = format!("transpose{} [{}, {}, {}]", T::SUFFIX, s.b, s.n, s.m);
    let device = verification.device();
    let got = verification.twice(&what, || {
        let (x, mut y) = (device.upload("x", &x)?, device.alloc::<T>("y", all)?);
        s.forward_gpu(device, x.view(), y.view_mut())?;
        device.download(y.view())
    })?;
    let mut want = vec![0.0; all];
    reference::forward(&s, &exact, &mut want);
    let got: Vec<f64> = got.iter().map(|y| f64::from(y.f32())).collect();
    verification.same(&format!("{what}: y"), &got, &want);
    Ok(())
}

/// Class logits of four images of 512 px, from patches to classes.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = Transpose { b: 4, n: 1024, m: 19 };
    let all = s.b * s.n * s.m;
    let x = filled::<bf16>(device, "x", all, 1)?;
    let mut y = device.alloc::<bf16>("y", all)?;
    let run = move || s.forward_gpu(device, x.view(), y.view_mut());
    Ok(vec![Timed::new("transpose_bf16", format!("[{}, {}, {}]", s.b, s.n, s.m), 0, 4 * all, run)])
}
