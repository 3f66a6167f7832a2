//! Sizes at which sampling of maps and labels is checked and timed.

use super::{Backward, Forward, LabelRows, LabelSample, PointSample};
use crate::Result;
use crate::call::{Gpu, Host, Launch};
use crate::check::checks::{Checked, Checks, Pass};
use crate::check::verify::{Timed, Verification, filled};
use crate::check::{UNIT, noise, wide};
use crate::device::Device;

impl Checked for PointSample {
    fn checks() -> Checks<PointSample> {
        let size = |(r, h, w, p, sets)| PointSample { r, h, w, p, sets };
        let square = |(r, p, sets)| PointSample { r, h: 128, w: 128, p, sets };
        let shape =
            |s: &PointSample| format!("{} x {}x{} at {} x {} points", s.r, s.h, s.w, s.sets, s.p);
        Checks::new(shape)
            .pass(Pass::of::<Forward<'_, Host, f32>>("fwd", |s| 20 * s.r * s.p))
            // The integers of a device are 2^-42 of the largest value of a row. That is below the
            // roundings of coordinates and products, since drawn values are of one magnitude.
            .pass(Pass::of::<Backward<'_, Host, f32>>("bwd", |s| 20 * s.r * s.p))
            .given("points", |_, points| around_the_square(points))
            .edited("points", |_, points| special(points))
            .gradients([(2, 3, 5, 17, 2), (2, 3, 5, 17, 1)].map(size))
            // One pixel and point, odd sides, separate and shared points, points by image, more
            // points than pixels, no points.
            .sizes(
                [
                    (1, 1, 1, 1, 1),
                    (3, 7, 5, 13, 3),
                    (3, 7, 5, 13, 1),
                    (6, 7, 5, 50, 3),
                    (2, 16, 24, 700, 1),
                    (2, 1, 1, 0, 2),
                ]
                .map(size),
            )
            .host_sizes([(2, 12544, 1), (2, 12544, 2)].map(square))
            .empty([(0, 4, 4, 3, 1), (0, 4, 4, 3, 0)].map(size))
            .refused([(1, 0, 2, 1, 1), (2, 2, 2, 1, 0)].map(size))
            .more(extremes)
            .more(|verification| labels(verification, false))
            .more(|verification| labels(verification, true))
            // Four images of 512 px: masks of 100 queries each at the points of the matching;
            // matched masks at points of their own.
            .timed([(400, 12544, 1), (76, 12544, 76)].map(square))
            .timed_on_host([
                ("matching", square((100, 12544, 1))),
                ("uncertainty", square((32, 37632, 32))),
                ("loss", square((32, 12544, 32))),
            ])
    }
}

/// Moves points in (-1, 1) into and around the unit square.
fn around_the_square(points: &mut [f64]) {
    points.iter_mut().for_each(|x| *x = f64::from(0.6 * *x as f32 + 0.5));
}

/// Sets a coordinate to NaN and two points to corners.
fn special(points: &mut [f64]) {
    if points.len() > 8 {
        points[0] = f64::NAN;
        points[2..6].copy_from_slice(&[1.0, 1.0, 0.0, 0.0]);
    }
}

/// Checks that gradients of any magnitude are summed with their own scale, and that NaN stays in
/// its row.
fn extremes(verification: &mut Verification<'_>) -> Result<()> {
    let s = PointSample { r: 4, h: 2, w: 2, p: 1, sets: 1 };
    let d = [3.0e38f32, -1.0e-30, f32::NAN, 0.0];
    let device = verification.device();
    // The centre of the upper left pixel: one tap of weight 1.
    let at = device.upload("points", &[0.25f32, 0.25])?;
    let dvalues = device.upload("dvalues", &d)?;
    let mut dmaps = device.alloc::<f32>("dmaps", 16)?;
    let (points, dvalues) = (at.view(), dvalues.view());
    Backward::<Gpu, f32> { points, dvalues, dmaps: dmaps.view_mut() }.launch(device, &s)?;
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

/// Points in and around the unit square, and some NaN.
fn points(n: usize) -> Vec<f32> {
    let mut points = noise(2 * n, 2);
    around_the_square(&mut points);
    special(&mut points);
    points.into_iter().map(|x| x as f32).collect()
}

fn labels(verification: &mut Verification<'_>, shared: bool) -> Result<()> {
    let (b, h, w, p) = (2, 9, 13, 50);
    let s = LabelSample { h, w, p };
    let labels: Vec<u8> = (0..b * h * w).map(|i| [0, 1, 255, 7][i * i / 3 % 4]).collect();
    // The last row has no image.
    let (images, classes) = ([1i32, 0, 1, -1], [7i32, 255, 0, 1]);
    let at = points(if shared { b * p } else { 4 * p });
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

/// Launches of the checks, and labels of matched masks at points of their own.
///
/// # Errors
/// No room for their operands.
pub(crate) fn timed(device: &Device) -> Result<Vec<Timed<'_>>> {
    let mut all = PointSample::checks().launches(device)?;
    let (p, read) = (12544, 76 * 12544);
    let (shape, bytes) = (format!("76 of 4 x 512x512, {p} points"), 4 * 512 * 512 + (8 + 4) * read);
    all.push(Timed::new("label_sample", shape, 20 * read, bytes, read_labels(device, p)?));
    Ok(all)
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
