//! Verification that the selection of uncertain points on a device is bitwise equal to the CPU's.

use super::UncertainPoints;
use crate::Result;
use crate::check::noise;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::device::Device;

pub(crate) const KERNELS: Kernels = Kernels { name: "uncertain_points", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One candidate, fewer candidates than threads, several rounds, all kept, none kept.
    for (r, n_over, keep, n_rand) in
        [(1, 1, 1, 0), (2, 7, 3, 2), (3, 2500, 700, 5), (1, 1024, 1024, 1), (2, 5, 0, 3)]
    {
        let s = UncertainPoints { r, n_over, keep, n_rand };
        check(verification, s, "", &noise(r * n_over, 1))?;
        // Many ties of both signs; zeros of both signs; NaN counts as certain.
        let ties: Vec<f32> =
            noise::<f32>(r * n_over, 5).iter().map(|x| (x * 4.0).round()).collect();
        check(verification, s, ", ties", &ties)?;
        check(verification, s, ", all equal", &vec![1.5; r * n_over])?;
        let mut damaged = ties;
        damaged.iter_mut().step_by(3).for_each(|x| *x = f32::NAN);
        check(verification, s, ", NaN", &damaged)?;
    }
    Ok(())
}

fn check(
    verification: &mut Verification<'_>,
    s: UncertainPoints,
    form: &str,
    logits: &[f32],
) -> Result<()> {
    let points = noise::<f32>(s.r * s.n_over * 2, 2);
    let random = noise::<f32>(s.r * s.n_rand * 2, 3);
    let len = s.r * 2 * (s.keep + s.n_rand);
    let UncertainPoints { r, n_over, keep, n_rand } = s;
    let what = format!("uncertain_points {r} x {keep} of {n_over} + {n_rand}{form}");
    let device = verification.device();
    let got = verification.twice(&what, || {
        let (logits, points) =
            (device.upload("logits", logits)?, device.upload("points", &points)?);
        let random = device.upload("random", &random)?;
        let mut out = device.alloc("out", len)?;
        s.select_gpu(device, logits.view(), points.view(), random.view(), out.view_mut())?;
        device.download(out.view())
    })?;
    let mut want = vec![0.0f32; len];
    s.select(logits, &points, &random, &mut want)?;
    verification.same(&format!("{what}: out"), &got, &want);
    Ok(())
}

/// Points of the recipe for four images, each with all 19 classes.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = UncertainPoints { r: 4 * 19, n_over: 37632, keep: 9408, n_rand: 3136 };
    let UncertainPoints { r, n_over, keep, n_rand } = s;
    let logits = filled(device, "logits", r * n_over, 1)?;
    let points = filled(device, "points", r * n_over * 2, 2)?;
    let random = filled(device, "random", r * n_rand * 2, 3)?;
    let mut out = device.alloc("out", r * 2 * (keep + n_rand))?;
    let run =
        move || s.select_gpu(device, logits.view(), points.view(), random.view(), out.view_mut());
    // Logits are read; kept and appended points are read and written. There are only comparisons,
    // no arithmetic.
    let bytes = r * (4 * n_over + 2 * 8 * (keep + n_rand));
    let shape = format!("{r} x {keep} of {n_over} + {n_rand}");
    Ok(vec![Timed::new("uncertain_points", shape, 0, bytes, run)])
}
