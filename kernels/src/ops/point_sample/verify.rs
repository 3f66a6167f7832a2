//! Verification of point sampling of maps and masks on a device against the CPU in f64.

use half::bf16;

use super::{LabelRows, LabelSample, PointSample};
use crate::Result;
use crate::check::verify::{Kernels, Timed, Verification, filled};
use crate::check::{UNIT, noise, stored, wide};
use crate::device::{Device, Float};

pub(crate) const KERNELS: Kernels = Kernels { name: "point_sample", verify, timed };

fn verify(verification: &mut Verification<'_>) -> Result<()> {
    // One pixel and point, odd sides, separate and shared points, more points than pixels.
    for (r, h, w, p, shared) in
        [(1, 1, 1, 1, false), (3, 7, 5, 13, false), (3, 7, 5, 13, true), (2, 16, 24, 700, true)]
    {
        check::<f32>(verification, PointSample { r, h, w, p, shared })?;
        check::<bf16>(verification, PointSample { r, h, w, p, shared })?;
    }
    extremes(verification)?;
    labels(verification, false)?;
    labels(verification, true)
}

/// Points in and around the unit square, and some NaN.
pub(super) fn points(n: usize, seed: u64) -> Vec<f32> {
    let mut points: Vec<f32> = noise::<f32>(2 * n, seed).iter().map(|x| 0.6 * x + 0.5).collect();
    if n > 4 {
        points[0] = f32::NAN;
        points[2..6].copy_from_slice(&[1.0, 1.0, 0.0, 0.0]);
    }
    points
}

fn check<T: Float>(verification: &mut Verification<'_>, s: PointSample) -> Result<()> {
    let (maps, exact_maps) = stored::<T>(&noise(s.r * s.h * s.w, 1));
    let at = points(if s.shared { s.p } else { s.r * s.p }, 2);
    let dvalues = noise::<f32>(s.r * s.p, 3);
    let points = if s.shared { "shared points" } else { "points each" };
    let what = format!("point_sample{} {} x {}x{}, {} {points}", T::SUFFIX, s.r, s.h, s.w, s.p);
    let device = verification.device();
    let (got, got_dmaps) = verification.twice(&what, || {
        let (maps, at) = (device.upload("maps", &maps)?, device.upload("points", &at)?);
        let dvalues = device.upload("dvalues", &dvalues)?;
        let mut values = device.alloc("values", s.r * s.p)?;
        let mut dmaps = device.alloc("dmaps", s.r * s.h * s.w)?;
        s.forward_gpu(device, maps.view(), at.view(), values.view_mut())?;
        s.backward_gpu(device, at.view(), dvalues.view(), dmaps.view_mut())?;
        Ok((device.download(values.view())?, device.download(dmaps.view())?))
    })?;
    let at = wide(&at);
    let (mut values, mut dmaps) = (vec![0.0; s.r * s.p], vec![0.0; s.r * s.h * s.w]);
    s.forward(&exact_maps, &at, &mut values)?;
    s.backward(&at, &wide(&dvalues), &mut dmaps)?;
    // A coordinate in pixels has two roundings, which go fully into the weights; the value is a sum
    // of four products of values below 1.
    let weight = 3.0 * UNIT * s.h.max(s.w) as f64;
    verification.within(&format!("{what}: values"), &got, &values, |_| 4.0 * weight + 8.0 * UNIT);
    // In the worst case a tap of every point touches a pixel; the integers add 2^-42 each, the
    // rounding of the product one unit.
    let mut touched = vec![0.0f64; dmaps.len()];
    s.backward(&at, &vec![1.0; s.r * s.p], &mut touched)?;
    verification.within::<T>(&format!("{what}: dmaps"), &got_dmaps, &dmaps, |i| {
        (s.p as f64).min(4.0 * touched[i] + 8.0) * 2.0 * weight + 4.0 * UNIT * touched[i]
    });
    Ok(())
}

/// Checks that gradients of any magnitude are summed with their own scale, and that NaN stays in
/// its row.
fn extremes(verification: &mut Verification<'_>) -> Result<()> {
    let s = PointSample { r: 4, h: 2, w: 2, p: 1, shared: true };
    let d = [3.0e38f32, -1.0e-30, f32::NAN, 0.0];
    let device = verification.device();
    // The centre of the upper left pixel: one tap of weight 1.
    let at = device.upload("points", &[0.25f32, 0.25])?;
    let dvalues = device.upload("dvalues", &d)?;
    let mut dmaps = device.alloc::<f32>("dmaps", 16)?;
    s.backward_gpu(device, at.view(), dvalues.view(), dmaps.view_mut())?;
    let got = device.download(dmaps.view())?;
    let what = "point_sample_f32 4 x 2x2, extremes";
    verification.same(&format!("{what}: dmaps of the largest"), &got[..4], &[d[0], 0.0, 0.0, 0.0]);
    // The scale is at most 2^121: up to half of its reciprocal is lost to rounding.
    let least = [f64::from(d[1]), 0.0, 0.0, 0.0];
    verification.within(&format!("{what}: dmaps of the least"), &got[4..8], &least, |i| {
        if i == 0 { 0.5f64.powi(122) } else { 0.0 }
    });
    verification.holds(&format!("{what}: NaN is not hidden"), got[8].is_nan());
    verification.same(&format!("{what}: dmaps of zero"), &got[12..], &[0.0; 4]);
    Ok(())
}

fn labels(verification: &mut Verification<'_>, shared: bool) -> Result<()> {
    let (b, h, w, p) = (2, 9, 13, 50);
    let s = LabelSample { h, w, p };
    let labels: Vec<u8> = (0..b * h * w).map(|i| [0, 1, 255, 7][i * i / 3 % 4]).collect();
    // The last row has no image.
    let (images, classes) = ([1i32, 0, 1, -1], [7i32, 255, 0, 1]);
    let at = points(if shared { b * p } else { 4 * p }, 2);
    let of = if shared { "of the images" } else { "each" };
    let what = format!("label_sample 4 of {b} x {h}x{w}, {p} points {of}");
    let device = verification.device();
    let got = verification.twice(&what, || {
        let (labels, points) = (device.upload("labels", &labels)?, device.upload("points", &at)?);
        let images = device.upload("images", &images)?;
        let classes = device.upload("classes", &classes)?;
        let mut values = device.alloc("values", 4 * p)?;
        let (images, classes) = (images.view(), classes.view());
        let (labels, points) = (labels.view(), points.view());
        let rows = LabelRows { labels, images, classes, points, shared };
        s.rows_gpu(device, rows, values.view_mut())?;
        device.download(values.view())
    })?;
    let mut want = vec![0.0f64; 4 * p];
    for (row, (&image, &class)) in images.iter().zip(&classes).enumerate().take(3) {
        let from = if shared { image as usize } else { row } * 2 * p;
        let at = wide(&at[from..from + 2 * p]);
        s.each(&labels, &[image], &[class], &at, &mut want[row * p..(row + 1) * p])?;
    }
    let bound = 4.0 * 3.0 * UNIT * w as f64 + 8.0 * UNIT;
    verification.within(&format!("{what}: values"), &got, &want, |_| bound);
    Ok(())
}

/// Sizes of four images of 512 px: masks of 100 queries each at the points of the matching; matched
/// masks at points of their own, their gradient, and the labels there, 19 classes each.
fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let (side, p) = (128, 12544);
    let all = PointSample { r: 400, h: side, w: side, p, shared: true };
    let pairs = PointSample { r: 4 * 19, shared: false, ..all };
    let maps = filled::<bf16>(device, "maps", all.r * side * side, 1)?;
    let at = filled(device, "points", 2 * p, 2)?;
    let mut values = device.alloc("values", all.r * p)?;
    let forward = move || all.forward_gpu(device, maps.view(), at.view(), values.view_mut());
    let read = pairs.r * p;
    let at = filled(device, "points", 2 * read, 3)?;
    let dvalues = filled(device, "dvalues", read, 4)?;
    let mut dmaps = device.alloc::<bf16>("dmaps", pairs.r * side * side)?;
    let backward = move || pairs.backward_gpu(device, at.view(), dvalues.view(), dmaps.view_mut());
    let forward_bytes = 2 * all.r * side * side + 8 * p + 4 * all.r * p;
    let backward_bytes = (8 + 4) * read + 2 * pairs.r * side * side;
    let shape = |s: &PointSample| format!("{} x {side}x{side}, {p} points", s.r);
    let label_shape = format!("{} of 4 x 512x512, {p} points", pairs.r);
    let label_bytes = 4 * 512 * 512 + (8 + 4) * read;
    Ok(vec![
        Timed::new("point_sample_fwd_bf16", shape(&all), 20 * all.r * p, forward_bytes, forward),
        Timed::new("point_sample_bwd_bf16", shape(&pairs), 20 * read, backward_bytes, backward),
        Timed::new("label_sample", label_shape, 20 * read, label_bytes, read_labels(device, p)?),
    ])
}

/// Masks of 19 classes in each of four label maps of 512 px, read at points of their own.
fn read_labels(device: &Device, p: usize) -> Result<impl FnMut() -> Result<()>> {
    let s = LabelSample { h: 512, w: 512, p };
    let labels: Vec<u8> = (0..4 * s.h * s.w).map(|i| (i / 37 % 19) as u8).collect();
    let labels = device.upload("labels", &labels)?;
    let images: Vec<i32> = (0..76).map(|row| row / 19).collect();
    let classes: Vec<i32> = (0..76).map(|row| row % 19).collect();
    let (images, classes) =
        (device.upload("images", &images)?, device.upload("classes", &classes)?);
    let points = filled(device, "points", 2 * 76 * p, 5)?;
    let mut values = device.alloc("values", 76 * p)?;
    Ok(move || {
        let (labels, points) = (labels.view(), points.view());
        let (images, classes) = (images.view(), classes.view());
        let rows = LabelRows { labels, images, classes, points, shared: false };
        s.rows_gpu(device, rows, values.view_mut())
    })
}
