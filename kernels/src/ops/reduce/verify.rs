//! Verification of sums and of the search for NaN and infinity on a device against f64.

use half::bf16;

use super::gpu::lowest_damaged;
use super::{PIECE, all_finite, all_finite_gpu, column_sums_gpu, sum_gpu};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::sizes::RowSplit;
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "reduce", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One element, part of a block of columns, more than one row split, more than 64 rows each.
    for (n, c) in [(1, 1), (7, 13), (65, 40), (1031, 33), (9001, 3)] {
        column_sums::<f32>(verification, n, c)?;
        column_sums::<bf16>(verification, n, c)?;
    }
    for n in [0, 1, 13, PIECE + 5, 70_001] {
        sums::<f32>(verification, n)?;
        sums::<bf16>(verification, n)?;
    }
    damaged::<f32>(verification)?;
    damaged::<bf16>(verification)
}

fn column_sums<T: Float>(verification: &mut Verification<'_>, n: usize, c: usize) -> Result<()> {
    let (x, exact) = stored::<T>(&noise(n * c, 1));
    let old = noise::<f32>(c, 2);
    let what = format!("column_sums{} [{n}, {c}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || {
        let x = device.upload("x", &x)?;
        let mut out = device.upload("out", &old)?;
        column_sums_gpu(device, x.view(), n, out.view_mut())?;
        device.download(out.view())
    })?;
    let old = wide(&old);
    let column = |f: fn(f64) -> f64, j: usize| (0..n).map(|i| f(exact[i * c + j])).sum::<f64>();
    let want: Vec<f64> = (0..c).map(|j| column(|x| x, j) + old[j]).collect();
    let depth = RowSplit::of(n).depth();
    verification.within(&format!("{what}: out"), &got, &want, |j| {
        depth * UNIT * (column(f64::abs, j) + old[j].abs())
    });
    Ok(())
}

fn sums<T: Float>(verification: &mut Verification<'_>, n: usize) -> Result<()> {
    let (x, exact) = stored::<T>(&noise(n, 1));
    let what = format!("sum{} [{n}]", T::SUFFIX);
    let device = verification.device();
    let got = verification.twice(&what, || {
        let x = device.upload("x", &x)?;
        let mut out = device.alloc("out", 1)?;
        sum_gpu(device, x.view(), out.view_mut())?;
        device.download(out.view())
    })?;
    // 64 elements per thread, 5 steps of a warp, 8 warps; the same again for the partial sums.
    let depth = 2.0 * (64.0 + 5.0 + 8.0);
    let size: f64 = exact.iter().map(|x| x.abs()).sum();
    let want = [exact.iter().sum::<f64>()];
    verification.within(&format!("{what}: out"), &got, &want, |_| depth * UNIT * size);
    Ok(())
}

/// Checks that the device finds the same first infinite or NaN element as the CPU.
fn damaged<T: Float>(verification: &mut Verification<'_>) -> Result<()> {
    let n = 40_003;
    let device = verification.device();
    let what = format!("damaged{} [{n}]", T::SUFFIX);
    let mut compare = |x: &[f32], place: &str| {
        let (x, exact) = stored::<T>(x);
        let case = format!("{what} {place}");
        let got =
            verification.twice(&case, || all_finite_gpu(device, device.upload("x", &x)?.view()))?;
        verification.same(&format!("{case}: index"), &[got], &[all_finite(&exact)]);
        Ok(())
    };
    compare(&[], "of no elements")?;
    let mut x = noise::<f32>(n, 1);
    compare(&x, "nowhere")?;
    // Above the largest bf16: rounds to infinity in bf16.
    x[3] = f32::MAX;
    compare(&x, "by the largest f32")?;
    x[3] = 0.0;
    for (at, bad) in
        [(n - 1, f32::NAN), (n / 2 + 1, f32::NEG_INFINITY), (n / 2, f32::INFINITY), (0, f32::NAN)]
    {
        x[at] = bad;
        compare(&x, &format!("at {at}"))?;
    }
    Ok(())
}

/// Gradient of the widest bias of ViT-L for four images of 512 px, and a tensor with as many
/// tokens.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (n, c) = (4 * 1025, 4096);
    let x = filled::<bf16>(device, "x", n * c, 1)?;
    let mut out = device.zeros("out", c)?;
    let columns = move || column_sums_gpu(device, x.view(), n, out.view_mut());
    let len = n * 1024;
    let x = filled::<bf16>(device, "x", len, 2)?;
    let mut out = device.alloc("out", 1)?;
    let sum = move || sum_gpu(device, x.view(), out.view_mut());
    let x = filled::<bf16>(device, "x", len, 2)?;
    let mut lowest = device.alloc("lowest", 1)?;
    let damaged = move || lowest_damaged(device, x.view(), lowest.view_mut());
    let shape = format!("[{len}]");
    Ok(vec![
        Timed::new("column_sums_bf16", format!("[{n}, {c}]"), n * c, 2 * n * c + 8 * c, columns),
        Timed::new("sum_bf16", shape.clone(), len, 2 * len, sum),
        Timed::new("damaged_bf16", shape, 0, 2 * len, damaged),
    ])
}
