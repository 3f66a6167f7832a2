//! Verification of gathered rows on a device against the CPU in f64.

use half::bf16;

use super::GatherRows;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "gather_rows", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    for (n, c) in [(1, 1), (7, 13), (5, 300)] {
        // A row three times, and invalid rows.
        for indices in [&[0][..], &[0, -1, 4, 0, 0, 7, 3, i32::MAX, i32::MIN], &[]] {
            check::<f32>(verification, n, c, indices)?;
            check::<bf16>(verification, n, c, indices)?;
        }
    }
    Ok(())
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    n: usize,
    c: usize,
    indices: &[i32],
) -> Result<()> {
    let s = GatherRows { n, r: indices.len(), c };
    let (x, exact_x) = stored::<T>(&noise(n * c, 1));
    let (dy, exact_dy) = stored::<T>(&noise(s.r * c, 2));
    let what = format!("gather_rows{} {} of [{n}, {c}]", T::SUFFIX, s.r);
    let device = verification.device();
    let (got, got_dx) = verification.twice(&what, || {
        let (x, dy) = (device.upload("x", &x)?, device.upload("dy", &dy)?);
        let indices = device.upload("indices", indices)?;
        let (mut y, mut dx) = (device.alloc("y", s.r * c)?, device.alloc("dx", n * c)?);
        s.forward_gpu(device, x.view(), indices.view(), y.view_mut())?;
        s.backward_gpu(device, indices.view(), dy.view(), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (mut y, mut dx) = (vec![f64::NAN; s.r * c], vec![f64::NAN; n * c]);
    s.forward(&exact_x, indices, &mut y)?;
    s.backward(indices, &exact_dy, &mut dx)?;
    // Copies are exact; a gradient is a sum of at most three values below 1.
    verification.within(&format!("{what}: y"), &got, &y, |_| 0.0);
    verification.within(&format!("{what}: dx"), &got_dx, &dx, |_| 3.0 * UNIT);
    Ok(())
}

/// Mask embeddings of the matched queries of four images; far below the cost of a launch.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = GatherRows { n: 400, r: 76, c: 256 };
    let indices: Vec<i32> = (0..s.r as i32).map(|i| 5 * i).collect();
    let table = device.upload("indices", &indices)?;
    let x = filled::<f32>(device, "x", s.n * s.c, 1)?;
    let mut y = device.alloc("y", s.r * s.c)?;
    let forward = move || s.forward_gpu(device, x.view(), table.view(), y.view_mut());
    let table = device.upload("indices", &indices)?;
    let dy = filled::<f32>(device, "dy", s.r * s.c, 2)?;
    let mut dx = device.alloc("dx", s.n * s.c)?;
    let backward = move || s.backward_gpu(device, table.view(), dy.view(), dx.view_mut());
    let (shape, rows) = (format!("{} of [{}, {}]", s.r, s.n, s.c), 4 * s.r * s.c);
    let bytes = [4 * s.r + 2 * rows, 4 * s.r + rows + 4 * s.n * s.c];
    Ok(vec![
        Timed::new("gather_rows_fwd_f32", shape.clone(), 0, bytes[0], forward),
        Timed::new("gather_rows_bwd_f32", shape, s.r * s.c, bytes[1], backward),
    ])
}
