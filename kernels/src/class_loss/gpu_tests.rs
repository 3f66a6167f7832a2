use half::bf16;

use super::ClassLoss;
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(n: usize, k: usize) {
    let device = Device::virtual_gpu();
    let s = ClassLoss { n, k, weight: 2.0 };
    let x: Vec<f32> = noise::<f32>(n * k, 1).iter().map(|v| 6.0 * v).collect();
    let (x, exact) = stored::<T>(&x);
    let targets: Vec<i32> = (0..n).map(|i| (i * 3 % k) as i32).collect();
    let (weights, exact_weights) =
        stored::<f32>(&noise::<f32>(k, 2).iter().map(|w| w.abs() + 0.1).collect::<Vec<_>>());
    let run = || {
        let x = device.upload("x", &x).unwrap();
        let targets = device.upload("targets", &targets).unwrap();
        let weights = device.upload("weights", &weights).unwrap();
        let dloss = device.upload("dloss", &[0.375f32]).unwrap();
        let (mut loss, mut scale) =
            (device.alloc("loss", 1).unwrap(), device.alloc("scale", 1).unwrap());
        let mut dx = device.alloc("dx", n * k).unwrap();
        let (t, w, l) = (targets.view(), weights.view(), loss.view_mut());
        s.forward_gpu(&device, x.view(), t, w, l, scale.view_mut()).unwrap();
        let (scale, dloss) = (scale.view(), dloss.view());
        s.backward_gpu(&device, x.view(), t, w, scale, dloss, dx.view_mut()).unwrap();
        (device.download(loss.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let loss = s.forward(&exact, &targets, &exact_weights).unwrap();
    let mut dx = vec![0.0; n * k];
    s.backward(&exact, &targets, &exact_weights, 0.375, &mut dx).unwrap();
    let what = format!("class_loss{} [{n}, {k}]", T::SUFFIX);
    // A sum over the classes and one over the rows of a warp and the warps; expf and logf are
    // within two units; the arguments of expf are up to 12 and carry their rounding.
    let row = k.div_ceil(32) as f64 + 5.0 + 2.0 + 12.0;
    let depth = row + n.div_ceil(8) as f64 + 8.0 + 4.0;
    assert_within(&format!("{what}, loss"), &got.0, &[loss], |_| depth * UNIT * (loss + 24.0));
    assert_within(&format!("{what}, dx"), &got.1, &dx, |i| {
        // p - 1 cancels: its error is that of p, of the size of the weight.
        let y = targets[i / k] as usize;
        let total: f64 = targets.iter().map(|&y| exact_weights[y as usize]).sum();
        (depth + row) * UNIT * 0.375 * 2.0 * exact_weights[y] / total
    });
}

#[test]
fn kernels_match_the_reference() {
    for (n, k) in [(1, 1), (7, 5), (101, 20), (13, 151)] {
        check::<f32>(n, k);
        check::<bf16>(n, k);
    }
}

#[test]
fn no_rows_give_zero() {
    let device = Device::virtual_gpu();
    let s = ClassLoss { n: 0, k: 2, weight: 2.0 };
    let (x, targets) = (device.zeros::<f32>("x", 0).unwrap(), device.zeros("targets", 0).unwrap());
    let weights = device.upload("weights", &[1.0f32; 2]).unwrap();
    let (mut loss, mut scale) =
        (device.alloc("loss", 1).unwrap(), device.alloc("scale", 1).unwrap());
    let (l, c) = (loss.view_mut(), scale.view_mut());
    s.forward_gpu(&device, x.view(), targets.view(), weights.view(), l, c).unwrap();
    assert_eq!(device.download(loss.view()).unwrap(), [0.0]);
    let short = device.zeros("short", 1).unwrap();
    let (l, c) = (loss.view_mut(), scale.view_mut());
    let error = s.forward_gpu(&device, x.view(), short.view(), weights.view(), l, c);
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "class_loss: targets has 1 elements, its sizes ask for 0");
}

#[test]
fn a_row_without_a_class_counts_for_nothing() {
    let device = Device::virtual_gpu();
    let x = noise::<f32>(9, 1);
    let run = |rows: usize, targets: &[i32]| {
        let s = ClassLoss { n: rows, k: 3, weight: 2.0 };
        let x = device.upload("x", &x[..3 * rows]).unwrap();
        let targets = device.upload("targets", targets).unwrap();
        let weights = device.upload("weights", &[1.0f32, 0.5, 0.1]).unwrap();
        let one = device.upload("dloss", &[1.0f32]).unwrap();
        let mut loss = device.alloc("loss", 1).unwrap();
        let mut scale = device.alloc("scale", 1).unwrap();
        let mut dx = device.alloc::<f32>("dx", 3 * rows).unwrap();
        let (x, t, w) = (x.view(), targets.view(), weights.view());
        s.forward_gpu(&device, x, t, w, loss.view_mut(), scale.view_mut()).unwrap();
        s.backward_gpu(&device, x, t, w, scale.view(), one.view(), dx.view_mut()).unwrap();
        (device.download(loss.view()).unwrap(), device.download(dx.view()).unwrap())
    };
    let (loss, dx) = run(2, &[1, 0]);
    let (padded_loss, padded_dx) = run(3, &[1, 0, -1]);
    assert_eq!(loss, padded_loss);
    assert_eq!((&dx[..], &[0.0; 3][..]), padded_dx.split_at(6));
}
