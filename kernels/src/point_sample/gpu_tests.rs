use half::bf16;

use super::{LabelRows, LabelSample, PointSample};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Points in and around the unit square, and some that are none.
fn points(n: usize, seed: u64) -> Vec<f32> {
    let mut points: Vec<f32> = noise::<f32>(2 * n, seed).iter().map(|x| 0.6 * x + 0.5).collect();
    if n > 4 {
        points[0] = f32::NAN;
        points[2..6].copy_from_slice(&[1.0, 1.0, 0.0, 0.0]);
    }
    points
}

fn check<T: Float>(s: PointSample) {
    let device = Device::virtual_gpu();
    let (maps, exact_maps) = stored::<T>(&noise(s.r * s.h * s.w, 1));
    let at = points(if s.shared { s.p } else { s.r * s.p }, 2);
    let dvalues = noise::<f32>(s.r * s.p, 3);
    let run = || {
        let maps = device.upload("maps", &maps).unwrap();
        let at = device.upload("points", &at).unwrap();
        let dvalues = device.upload("dvalues", &dvalues).unwrap();
        let mut values = device.alloc("values", s.r * s.p).unwrap();
        let mut dmaps = device.alloc::<T>("dmaps", s.r * s.h * s.w).unwrap();
        s.forward_gpu(&device, maps.view(), at.view(), values.view_mut()).unwrap();
        s.backward_gpu(&device, at.view(), dvalues.view(), dmaps.view_mut()).unwrap();
        (device.download(values.view()).unwrap(), device.download(dmaps.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut values, mut dmaps) = (vec![0.0; s.r * s.p], vec![0.0; s.r * s.h * s.w]);
    s.forward(&exact_maps, &wide(&at), &mut values).unwrap();
    s.backward(&wide(&at), &wide(&dvalues), &mut dmaps).unwrap();
    let what = format!("point_sample{} {s:?}", T::SUFFIX);
    // A coordinate in pixels carries two roundings, which the weights feel in full; the value is
    // a sum of four products of values below 1.
    let weight = 3.0 * UNIT * s.h.max(s.w) as f64;
    assert_within(&format!("{what}, forward"), &got.0, &values, |_| 4.0 * weight + 8.0 * UNIT);
    // A pixel is touched by a tap of every point at worst; the integers add 2^-42 each, the
    // rounding of the product one unit.
    let mut touched = vec![0.0f64; dmaps.len()];
    s.backward(&wide(&at), &vec![1.0; s.r * s.p], &mut touched).unwrap();
    assert_within(&format!("{what}, backward"), &got.1, &dmaps, |i| {
        (s.p as f64).min(4.0 * touched[i] + 8.0) * 2.0 * weight + 4.0 * UNIT * touched[i]
    });
}

#[test]
fn kernels_match_the_reference() {
    for (r, h, w, p, shared) in
        [(1, 1, 1, 1, false), (3, 7, 5, 13, false), (3, 7, 5, 13, true), (2, 16, 24, 700, true)]
    {
        check::<f32>(PointSample { r, h, w, p, shared });
        check::<bf16>(PointSample { r, h, w, p, shared });
    }
}

#[test]
fn the_maps_of_an_image_read_its_points() {
    let device = Device::virtual_gpu();
    let (sets, of_set, p) = (3, 2, 50);
    let all = PointSample { r: sets * of_set, h: 7, w: 5, p, shared: true };
    let maps = noise::<f32>(all.r * 35, 1);
    let (at, dvalues) = (points(sets * p, 2), noise::<f32>(all.r * p, 3));
    let run = |s: PointSample, maps: &[f32], at: &[f32], dvalues: &[f32]| {
        let (maps, at) = (device.upload("m", maps).unwrap(), device.upload("at", at).unwrap());
        let dvalues = device.upload("dvalues", dvalues).unwrap();
        let mut values = device.alloc("values", s.r * p).unwrap();
        let mut dmaps = device.alloc::<f32>("dmaps", s.r * 35).unwrap();
        s.forward_gpu(&device, maps.view(), at.view(), values.view_mut()).unwrap();
        s.backward_gpu(&device, at.view(), dvalues.view(), dmaps.view_mut()).unwrap();
        (device.download(values.view()).unwrap(), device.download(dmaps.view()).unwrap())
    };
    let (values, dmaps) = run(all, &maps, &at, &dvalues);
    let one = PointSample { r: of_set, ..all };
    for i in 0..sets {
        let (m, v) = (i * of_set * 35, i * of_set * p);
        let want = run(one, &maps[m..][..70], &at[i * p * 2..][..2 * p], &dvalues[v..][..2 * p]);
        assert!(want.0 == values[v..][..2 * p] && want.1 == dmaps[m..][..70], "set {i}");
    }
    let error = all.forward_gpu(
        &device,
        device.zeros::<f32>("m", all.r * 35).unwrap().view(),
        device.zeros("at", 4 * p * 2).unwrap().view(),
        device.alloc("v", all.r * p).unwrap().view_mut(),
    );
    let sentence = "point_sample: points has 400 elements, its sizes ask for 100";
    assert_eq!(error.unwrap_err().to_string(), sentence);
}

#[test]
fn gradients_keep_their_size_and_damage_stays_in_its_row() {
    let device = Device::virtual_gpu();
    let s = PointSample { r: 4, h: 2, w: 2, p: 1, shared: true };
    // The centre of the upper left pixel: one tap of weight 1.
    let at = device.upload("points", &[0.25f32, 0.25]).unwrap();
    let d = [3.0e38f32, -1.0e-30, f32::NAN, 0.0];
    let dvalues = device.upload("dvalues", &d).unwrap();
    let mut dmaps = device.alloc::<f32>("dmaps", 16).unwrap();
    s.backward_gpu(&device, at.view(), dvalues.view(), dmaps.view_mut()).unwrap();
    let got = device.download(dmaps.view()).unwrap();
    assert!((got[0] / d[0] - 1.0).abs() < 1e-6 && (got[4] / d[1] - 1.0).abs() < 1e-6, "{got:?}");
    assert!(got[8].is_nan() && got[12] == 0.0, "{got:?}");
    assert_eq!((&got[1..4], &got[13..16]), (&[0.0; 3][..], &[0.0; 3][..]));
}

#[test]
fn masks_of_labels_match_the_reference() {
    let device = Device::virtual_gpu();
    let (b, h, w, p) = (2, 9, 13, 50);
    let s = LabelSample { h, w, p };
    let labels: Vec<u8> = (0..b * h * w).map(|i| [0, 1, 255, 7][i * i / 3 % 4]).collect();
    let (images, classes) = ([1i32, 0, 1, -1], [7i32, 255, 0, 1]);
    for shared in [false, true] {
        let at = points(if shared { b * p } else { 4 * p }, 2);
        let run = || {
            let (labels, at) =
                (device.upload("l", &labels).unwrap(), device.upload("at", &at).unwrap());
            let images = device.upload("images", &images).unwrap();
            let classes = device.upload("classes", &classes).unwrap();
            let mut values = device.alloc("values", 4 * p).unwrap();
            let (images, classes) = (images.view(), classes.view());
            let rows =
                LabelRows { labels: labels.view(), images, classes, points: at.view(), shared };
            s.rows_gpu(&device, rows, values.view_mut()).unwrap();
            device.download(values.view()).unwrap()
        };
        let got = run();
        assert_eq!(got, run());
        let mut want = vec![0.0f64; 4 * p];
        for (row, (&image, &class)) in images.iter().zip(&classes).enumerate().take(3) {
            let from = if shared { image as usize } else { row } * 2 * p;
            let (at, class) = (wide(&at[from..from + 2 * p]), [class as u8]);
            let want = &mut want[row * p..(row + 1) * p];
            s.each(&labels, &[image as usize], &class, &at, want).unwrap();
        }
        let bound = 4.0 * 3.0 * UNIT * w as f64 + 8.0 * UNIT;
        assert_within(&format!("label_sample, shared {shared}"), &got, &want, |_| bound);
    }
}
