//! Verification of changed row widths on a device against the CPU in f64.

use half::bf16;

use super::RowWidth;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "row_width", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for s in [
        RowWidth::new(1, 1, 1),
        RowWidth::new(7, 13, 32).scaled(2, 6, 2.0),
        RowWidth::new(96, 32, 13),
        RowWidth::new(50, 48, 64).scaled(1, 1, 0.5),
        RowWidth::new(3, 5, 0),
        RowWidth::new(4, 0, 3),
    ] {
        check::<f32>(verification, s)?;
        check::<bf16>(verification, s)?;
    }
    Ok(())
}

fn check<T: Float>(verification: &mut Verification<'_>, s: RowWidth) -> Result<()> {
    let (x, exact) = stored::<T>(&noise(s.n * s.from, 1));
    let RowWidth { n, from, to, period, scaled, factor } = s;
    let what = format!(
        "row_width{} [{n}, {from} to {to}], {scaled} of {period} times {factor}",
        T::SUFFIX
    );
    let device = verification.device();
    let got = verification.twice(&what, || {
        let x = device.upload("x", &x)?;
        let mut y = device.alloc("y", n * to)?;
        s.run_gpu(device, x.view(), y.view_mut())?;
        device.download(y.view())
    })?;
    let mut want = vec![0.0f64; n * to];
    s.run(&exact, &mut want)?;
    // One product, rounded once; without a factor the values are exact.
    let want: Vec<T> = want.iter().map(|&y| T::of(y as f32)).collect();
    verification.same(&format!("{what}: y"), &got, &want);
    Ok(())
}

/// Heads of 16 channels widened for four images of 1024 tokens with 3 x 24 heads.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = RowWidth::new(4 * 1024 * 3 * 24, 16, 32);
    let x = filled::<bf16>(device, "x", s.n * s.from, 1)?;
    let mut y = device.alloc::<bf16>("y", s.n * s.to)?;
    let run = move || s.run_gpu(device, x.view(), y.view_mut());
    let shape = format!("[{}, {} to {}]", s.n, s.from, s.to);
    Ok(vec![Timed::new("row_width_bf16", shape, 0, 2 * s.n * (s.from + s.to), run)])
}
