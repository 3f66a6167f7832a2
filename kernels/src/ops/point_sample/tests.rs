use super::{Backward, Forward, LabelSample, PointSample};
use crate::Real;
use crate::call::{Call, Host};
use crate::check::{assert_close, noise};

/// Points in and slightly around the unit square, to test borders and the outside.
fn points<T: Real>(n: usize, seed: u64) -> Vec<T> {
    noise::<T>(n * 2, seed).iter().map(|v| *v * T::of(0.7) + T::of(0.5)).collect()
}

#[test]
fn golden_numbers() {
    let map: Vec<f64> = (0..12).map(f64::from).collect();
    let at = [0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 0.3, 0.8, 0.9, 0.1];
    let want = [5.5, 0.0, 2.75, 8.3, 2.16];
    let s = PointSample { r: 1, h: 3, w: 4, p: 5, sets: 1 };
    let mut got = [f64::NAN; 5];
    Forward::<Host, _> { maps: &map, points: &at, values: &mut got }.run(&s).unwrap();
    assert_close("point_sample", &got, &want, 1e-12);
    let (map, at) = (map.iter().map(|&v| v as f32).collect::<Vec<_>>(), at.map(|v| v as f32));
    let mut got = [f32::NAN; 5];
    Forward::<Host, _> { maps: &map, points: &at, values: &mut got }.run(&s).unwrap();
    assert_close("point_sample in f32", &got, &want.map(|v| v as f32), 1e-6);
}

#[test]
fn far_points_and_nan_points_read_zero() {
    let s = PointSample { r: 1, h: 2, w: 2, p: 5, sets: 1 };
    let at = [1.3, 0.5, -0.3, 0.5, 0.5, 9.0, f32::NAN, 0.5, 0.5, f32::NEG_INFINITY];
    let mut values = [f32::NAN; 5];
    Forward::<Host, _> { maps: &[1.0; 4], points: &at, values: &mut values }.run(&s).unwrap();
    assert_eq!(values, [0.0; 5]);
    let mut dmaps = [f32::NAN; 4];
    Backward::<Host, _> { points: &at, dvalues: &[1.0; 5], dmaps: &mut dmaps }.run(&s).unwrap();
    assert_eq!(dmaps, [0.0; 4]);
}

#[test]
fn labels_are_read_like_masks() {
    let (b, h, w, p) = (2, 11, 6, 301);
    let labels: Vec<u8> = noise::<f32>(b * h * w, 1)
        .iter()
        .map(|v| if *v > 0.8 { 255 } else { (v.abs() * 4.0) as u8 })
        .collect();
    let mask = |image: usize, class: u8| -> Vec<f32> {
        let map = &labels[image * h * w..][..h * w];
        map.iter().map(|&l| f32::from(u8::from(l == class))).collect()
    };
    let s = LabelSample { h, w, p };
    let one = PointSample { r: 1, h, w, p, sets: 1 };
    let want = |image: i32, class: i32, at: &[f32]| {
        let mut want = vec![0.0; p];
        if image >= 0 {
            let mask = mask(image as usize, class as u8);
            let c = Forward::<Host, _> { maps: &mask, points: at, values: &mut want };
            Forward::<Host, f32>::reference(&one, c);
        }
        want
    };
    // Padding comes last in each image.
    let (images, classes) = ([0, 0, -1, -1, 1, 1, 1, 1], [1, 2, -1, -1, 3, 0, 2, 77]);
    let at = points::<f32>(b * p, 2);
    let mut values = vec![f32::NAN; images.len() * p];
    s.shared(&labels, &images, &classes, &at, &mut values).unwrap();
    for (i, got) in values.chunks(p).enumerate() {
        assert_eq!(got, want(images[i], classes[i], &at[i / 4 * 2 * p..][..2 * p]));
    }
    let (images, classes) = ([1, 0, -1, 1], [2, 3, -1, 77]);
    let at = points::<f32>(4 * p, 4);
    let mut values = vec![f32::NAN; 4 * p];
    s.each(&labels, &images, &classes, &at, &mut values).unwrap();
    for (i, got) in values.chunks(p).enumerate() {
        assert_eq!(got, want(images[i], classes[i], &at[i * 2 * p..][..2 * p]));
    }
}

#[test]
fn bad_arguments_are_named() {
    let s = LabelSample { h: 2, w: 2, p: 1 };
    let error = s.shared(&[0; 4], &[0, 0], &[3, 3], &[0.5f32; 2], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "sample_labels: class 3 is asked for twice");
    let error = s.each(&[0; 8], &[0, 2], &[1, 1], &[0.5f32; 4], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "sample_labels: image 2 of 2 label maps");
    let refused = |s: PointSample| {
        let c = Forward::<Host, f32> { maps: &[0.0; 24], points: &[0.5; 8], values: &mut [0.0; 6] };
        c.run(&s).unwrap_err().to_string()
    };
    let s = PointSample { r: 6, h: 0, w: 2, p: 1, sets: 1 };
    assert_eq!(refused(s), "point_sample: a map cannot be 0 x 2 pixels");
    let s = PointSample { r: 6, h: 2, w: 2, p: 1, sets: 4 };
    assert_eq!(refused(s), "point_sample: 4 sets of points for 6 maps");
}
