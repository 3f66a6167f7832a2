use half::bf16;

use super::SemanticScores;
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};
use crate::resize::{Axis, AxisGpu, Mode, Step};

fn check<T: Float>(q: usize, k: usize, [h, w, ho, wo]: [usize; 4]) {
    let device = Device::virtual_gpu();
    let s = SemanticScores { q, k };
    let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).unwrap();
    let (y, x) = (axis(h, ho), axis(w, wo));
    let (rows, columns) = (AxisGpu::new(&device, &y).unwrap(), AxisGpu::new(&device, &x).unwrap());
    let four = |n, seed| noise::<f32>(n, seed).iter().map(|v| 4.0 * v).collect::<Vec<f32>>();
    let (cls, exact_cls) = stored::<T>(&four(q * (k + 1), 1));
    let (masks, exact_masks) = stored::<T>(&four(q * h * w, 2));
    let run = || {
        let (cls, masks) =
            (device.upload("cls", &cls).unwrap(), device.upload("masks", &masks).unwrap());
        let mut scores = device.alloc("scores", k * ho * wo).unwrap();
        let (cls, masks, out) = (cls.view(), masks.view(), scores.view_mut());
        s.upsampled_gpu(&device, &rows, &columns, cls, masks, out).unwrap();
        device.download(scores.view()).unwrap()
    };
    let got = run();
    assert_eq!(got, run());
    let mut want = vec![0.0; k * ho * wo];
    s.upsampled(&y, &x, &exact_cls, &exact_masks, &mut want).unwrap();
    // Probabilities: sums over a lane's classes and the warp, two exponentials whose arguments
    // are up to 8. Sigmoids of values up to 4 with eight roundings and slope 1/4. Sums over the
    // queries.
    let prob = k.div_ceil(32) as f64 + 5.0 + 24.0;
    let bound = |score: f64| UNIT * ((prob + 8.0 + q as f64) * score + 8.0 * score.max(1.0));
    let what = format!("semantic_scores{} [{q}, {k}] {h}x{w} to {ho}x{wo}", T::SUFFIX);
    assert_within(&what, &got, &want, |i| bound(want[i]));
}

#[test]
fn kernels_match_the_reference() {
    for (q, k, sizes) in [(1, 1, [1, 1, 1, 1]), (7, 19, [5, 3, 20, 12]), (13, 43, [8, 9, 8, 9])] {
        check::<f32>(q, k, sizes);
        check::<bf16>(q, k, sizes);
    }
}
