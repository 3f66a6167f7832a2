//! Verification that random numbers on a device are bitwise equal to the CPU's.

use super::Uniform;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification};
use crate::device::Device;

pub(crate) const KERNELS: Kernels = Kernels { name: "uniform", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (streams, rows, draws) in [(1, 1, 1), (3, 1, 26), (1, 7, 13), (2, 5, 1030)] {
        let (seed, purpose, first) = (0x1234_5678_9ABC, 0x4153, 9 << 20);
        let s = Uniform { seed, purpose, first, streams, rows, draws };
        check(verification, s, 3, None)?;
        // Rows of a table out of order, one twice, one padding, one far beyond the end.
        let table = [5, 0, -1, 5, 1 << 30, 2, 1];
        check(verification, s, u64::from(u32::MAX) + 7, Some(&table[..rows]))?;
    }
    Ok(())
}

fn check(
    verification: &mut Verification<'_>,
    s: Uniform,
    step: u64,
    rows: Option<&[i32]>,
) -> Result<()> {
    let table = if rows.is_some() { ", rows of a table" } else { "" };
    let what = format!("uniform_fill [{}, {}, {}]{table}", s.streams, s.rows, s.draws);
    let device = verification.device();
    let got = verification.twice(&what, || {
        let step = device.upload("step", &[step as u32 as i32])?;
        let table = rows.map(|rows| device.upload("rows", rows)).transpose()?;
        let mut out = device.alloc("out", s.streams * s.rows * s.draws)?;
        let table = table.as_ref().map(|table| table.view());
        s.fill_gpu(device, step.view(), table, out.view_mut())?;
        device.download(out.view())
    })?;
    let mut want = vec![f32::NAN; got.len()];
    s.fill(step, rows, &mut want)?;
    verification.same(&format!("{what}: draws"), &got, &want);
    Ok(())
}

/// Candidate points of 76 pairs at the sizes of the recipe.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (rows, draws) = (76, 2 * 37632);
    let s = Uniform { seed: 1, purpose: 2, first: 3, streams: 1, rows, draws };
    let step = device.upload("step", &[7])?;
    let mut out = device.alloc("out", rows * draws)?;
    let run = move || s.fill_gpu(device, step.view(), None, out.view_mut());
    // Integer operations; practically no floating-point operations.
    Ok(vec![Timed::new("uniform_fill", format!("[{rows}, {draws}]"), 0, 4 * rows * draws, run)])
}
