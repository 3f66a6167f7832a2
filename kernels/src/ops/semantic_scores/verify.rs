//! Verification of class scores of pixels on a device against the CPU in f64.

use half::bf16;

use super::SemanticScores;
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored};
use crate::device::{Device, Float};
use crate::ops::resize::{Axis, AxisGpu, Mode, Step};

pub(crate) const KERNELS: Kernels = Kernels { name: "semantic_scores", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One of everything; a street scene; more classes than two blocks handle, nothing to resize.
    for (q, k, sizes) in [(1, 1, [1, 1, 1, 1]), (7, 19, [5, 3, 20, 12]), (13, 43, [8, 9, 8, 9])] {
        check::<f32>(verification, q, k, sizes)?;
        check::<bf16>(verification, q, k, sizes)?;
    }
    Ok(())
}

fn axis(n_in: usize, n_out: usize) -> Result<Axis> {
    Axis::new(n_in, n_out, Mode::Bilinear, Step::Size)
}

fn check<T: Float>(
    verification: &mut Verification<'_>,
    q: usize,
    k: usize,
    [h, w, ho, wo]: [usize; 4],
) -> Result<()> {
    let s = SemanticScores { q, k };
    let device = verification.device();
    let (y, x) = (axis(h, ho)?, axis(w, wo)?);
    let (rows, columns) = (AxisGpu::new(device, &y)?, AxisGpu::new(device, &x)?);
    let four = |n, seed| noise::<f32>(n, seed).iter().map(|v| 4.0 * v).collect::<Vec<f32>>();
    let (cls, exact_cls) = stored::<T>(&four(q * (k + 1), 1));
    let (masks, exact_masks) = stored::<T>(&four(q * h * w, 2));
    let what = format!("semantic_scores{} [{q}, {k}] {h}x{w} to {ho}x{wo}", T::SUFFIX);
    let got = verification.twice(&what, || {
        let (cls, masks) = (device.upload("cls", &cls)?, device.upload("masks", &masks)?);
        let mut scores = device.alloc("scores", k * ho * wo)?;
        let (cls, masks, out) = (cls.view(), masks.view(), scores.view_mut());
        s.upsampled_gpu(device, &rows, &columns, cls, masks, out)?;
        device.download(scores.view())
    })?;
    let mut want = vec![0.0; k * ho * wo];
    s.upsampled(&y, &x, &exact_cls, &exact_masks, &mut want)?;
    // Probabilities: sums over a lane's classes and the warp, two exponentials whose arguments
    // are up to 8. Sigmoids of values up to 4 with eight roundings and slope 1/4. Sums over the
    // queries.
    let prob = k.div_ceil(32) as f64 + 5.0 + 24.0;
    let bound = |score: f64| UNIT * ((prob + 8.0 + q as f64) * score + 8.0 * score.max(1.0));
    verification.within(&format!("{what}: scores"), &got, &want, |i| bound(want[i]));
    Ok(())
}

/// 100 queries and 19 classes of one crop of 512 px, from masks at a quarter of its size.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (s, n_in, n_out) = (SemanticScores { q: 100, k: 19 }, 128, 512);
    let of = axis(n_in, n_out)?;
    let (rows, columns) = (AxisGpu::new(device, &of)?, AxisGpu::new(device, &of)?);
    let (cls_len, masks_len) = (s.q * (s.k + 1), s.q * n_in * n_in);
    let cls = filled::<bf16>(device, "cls", cls_len, 1)?;
    let masks = filled(device, "masks", masks_len, 2)?;
    let pixels = n_out * n_out;
    let mut scores = device.alloc("scores", s.k * pixels)?;
    let run = move || {
        let (cls, masks, out) = (cls.view(), masks.view(), scores.view_mut());
        s.upsampled_gpu(device, &rows, &columns, cls, masks, out)
    };
    let shape = format!("[{}, {}] {n_in}x{n_in} to {n_out}x{n_out}", s.q, s.k);
    let bytes = 2 * (cls_len + masks_len) + 4 * s.k * pixels;
    Ok(vec![Timed::new("semantic_scores_bf16", shape, 2 * s.q * s.k * pixels, bytes, run)])
}
