//! Chosen rows on a device beside the host's in f64.

use half::bf16;

use super::GatherRows;
use crate::Result;
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};
use crate::proof::{Kernels, Proof, Timed, filled};

pub(crate) const KERNELS: Kernels = Kernels { name: "gather_rows", prove, timed };

fn prove(proof: &mut Proof<'_>) -> Result<()> {
    for (n, c) in [(1, 1), (7, 13), (5, 300)] {
        // A row thrice, rows that are none; no rows at all.
        for indices in [&[0][..], &[0, -1, 4, 0, 0, 7, 3, i32::MAX, i32::MIN], &[]] {
            check::<f32>(proof, n, c, indices)?;
            check::<bf16>(proof, n, c, indices)?;
        }
    }
    Ok(())
}

fn check<T: Float>(proof: &mut Proof<'_>, n: usize, c: usize, indices: &[i32]) -> Result<()> {
    let s = GatherRows { n, r: indices.len(), c };
    let (x, exact_x) = stored::<T>(&noise(n * c, 1));
    let (dy, exact_dy) = stored::<T>(&noise(s.r * c, 2));
    let what = format!("gather_rows{} {} of [{n}, {c}]", T::SUFFIX, s.r);
    let device = proof.device();
    let got = proof.twice(&what, || {
        let (x, dy) = (device.upload("x", &x)?, device.upload("dy", &dy)?);
        let indices = device.upload("indices", indices)?;
        let mut y = device.alloc("y", s.r * c)?;
        let mut dx = device.alloc("dx", n * c)?;
        s.forward_gpu(device, x.view(), indices.view(), y.view_mut())?;
        s.backward_gpu(device, indices.view(), dy.view(), dx.view_mut())?;
        Ok((device.download(y.view())?, device.download(dx.view())?))
    })?;
    let (mut y, mut dx) = (vec![f64::NAN; s.r * c], vec![f64::NAN; n * c]);
    s.forward(&exact_x, indices, &mut y)?;
    s.backward(indices, &exact_dy, &mut dx)?;
    // Copies are exact; a gradient is a sum of at most three values below 1.
    proof.within(&format!("{what}: y"), &got.0, &y, |_| 0.0);
    proof.within(&format!("{what}: dx"), &got.1, &dx, |_| 3.0 * UNIT);
    Ok(())
}

/// Mask embeddings of 76 pairs among 400 queries.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let s = GatherRows { n: 400, r: 76, c: 256 };
    let x = filled::<bf16>(device, "x", s.n * s.c, 1)?;
    let dy = filled::<bf16>(device, "dy", s.r * s.c, 2)?;
    let indices: Vec<i32> = (0..s.r as i32).map(|i| i * 5).collect();
    let (there, back) = (device.upload("indices", &indices)?, device.upload("indices", &indices)?);
    let mut y = device.alloc::<bf16>("y", s.r * s.c)?;
    let mut dx = device.alloc::<bf16>("dx", s.n * s.c)?;
    let forward = move || s.forward_gpu(device, x.view(), there.view(), y.view_mut());
    let backward = move || s.backward_gpu(device, back.view(), dy.view(), dx.view_mut());
    let shape = format!("{} of [{}, {}]", s.r, s.n, s.c);
    let (read, written) = (2 * s.r * s.c, 2 * s.n * s.c);
    Ok(vec![
        Timed::new("gather_rows_fwd_bf16", shape.clone(), 0, 2 * read + 4 * s.r, forward),
        Timed::new("gather_rows_bwd_bf16", shape, 0, read + written + 4 * s.r, backward),
    ])
}
