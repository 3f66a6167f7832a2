use super::{LabelSample, PointSample, cpu, reference};
use crate::Real;
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// Points in and slightly around the unit square, to test borders and the outside.
fn points<T: Real>(n: usize, seed: u64) -> Vec<T> {
    noise::<T>(n * 2, seed).iter().map(|v| *v * T::of(0.7) + T::of(0.5)).collect()
}

const SIZES: [PointSample; 5] = [
    PointSample { r: 1, h: 1, w: 1, p: 1, shared: false },
    PointSample { r: 3, h: 5, w: 7, p: 13, shared: false },
    PointSample { r: 3, h: 5, w: 7, p: 13, shared: true },
    PointSample { r: 2, h: 128, w: 128, p: 12544, shared: true },
    PointSample { r: 2, h: 128, w: 128, p: 12544, shared: false },
];

fn point_rows(s: &PointSample) -> usize {
    if s.shared { 1 } else { s.r }
}

#[test]
fn golden_numbers() {
    let map: Vec<f64> = (0..12).map(f64::from).collect();
    let at = [0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 0.3, 0.8, 0.9, 0.1];
    let want = [5.5, 0.0, 2.75, 8.3, 2.16];
    let s = PointSample { r: 1, h: 3, w: 4, p: 5, shared: false };
    let mut got = [f64::NAN; 5];
    s.forward(&map, &at, &mut got).unwrap();
    assert_close("point_sample", &got, &want, 1e-12);
    let (map, at) = (map.iter().map(|&v| v as f32).collect::<Vec<_>>(), at.map(|v| v as f32));
    let mut got = [f32::NAN; 5];
    s.forward(&map, &at, &mut got).unwrap();
    assert_close("point_sample in f32", &got, &want.map(|v| v as f32), 1e-6);
}

#[test]
fn far_points_and_nan_points_read_zero() {
    let s = PointSample { r: 1, h: 2, w: 2, p: 5, shared: false };
    let at = [1.3, 0.5, -0.3, 0.5, 0.5, 9.0, f32::NAN, 0.5, 0.5, f32::NEG_INFINITY];
    let mut values = [f32::NAN; 5];
    s.forward(&[1.0; 4], &at, &mut values).unwrap();
    assert_eq!(values, [0.0; 5]);
    let mut dmaps = [f32::NAN; 4];
    s.backward(&at, &[1.0; 5], &mut dmaps).unwrap();
    assert_eq!(dmaps, [0.0; 4]);
}

#[test]
fn gradient_matches_central_differences() {
    for shared in [false, true] {
        let s = PointSample { r: 2, h: 3, w: 5, p: 17, shared };
        let inputs = [noise::<f64>(s.r * s.h * s.w, 1)];
        let at = points::<f64>(point_rows(&s) * s.p, 2);
        let dy = noise(s.r * s.p, 3);
        let mut dmaps = vec![f64::NAN; s.r * s.h * s.w];
        s.backward(&at, &dy, &mut dmaps).unwrap();
        central_differences("point_sample", &inputs, &[dmaps], |inputs| {
            let mut values = vec![f64::NAN; s.r * s.p];
            s.forward(&inputs[0], &at, &mut values).unwrap();
            weighted_sum(&values, &dy)
        });
    }
}

#[test]
fn fast_form_matches_reference() {
    for s in SIZES {
        let maps = noise::<f32>(s.r * s.h * s.w, 1);
        let at = points::<f32>(point_rows(&s) * s.p, 2);
        let (mut fast, mut slow) = (vec![f32::NAN; s.r * s.p], vec![f32::NAN; s.r * s.p]);
        cpu::forward(&s, &maps, &at, &mut fast);
        reference::forward(&s, &maps, &at, &mut slow);
        assert_close("values", &fast, &slow, 1e-6);
        let dy = noise::<f32>(s.r * s.p, 3);
        let (mut fast, mut slow) = (vec![f32::NAN; maps.len()], vec![f32::NAN; maps.len()]);
        cpu::backward(&s, &at, &dy, &mut fast);
        reference::backward(&s, &at, &dy, &mut slow);
        assert_close("dmaps", &fast, &slow, 1e-6);
    }
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
    let one = PointSample { r: 1, h, w, p, shared: false };
    let want = |image: i32, class: i32, at: &[f32]| {
        let mut want = vec![0.0; p];
        if image >= 0 {
            let mask = mask(image as usize, class as u8);
            reference::forward(&one, &mask, at, &mut want);
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
    let s = PointSample { r: 1, h: 0, w: 2, p: 1, shared: false };
    let error = s.forward(&[], &[0.5f32; 2], &mut [0.0]).unwrap_err();
    assert_eq!(error.to_string(), "point_sample: a map cannot be 0 x 2 pixels");
}

#[test]
fn no_rows_and_no_points_are_fine() {
    let s = PointSample { r: 0, h: 4, w: 4, p: 3, shared: true };
    s.forward::<f32>(&[], &[0.5; 6], &mut []).unwrap();
    let s = PointSample { r: 2, h: 1, w: 1, p: 0, shared: false };
    s.forward(&[1.0f32; 2], &[], &mut []).unwrap();
    let mut dmaps = [1.0f32; 2];
    s.backward(&[], &[], &mut dmaps).unwrap();
    assert_eq!(dmaps, [0.0; 2]);
}
