use half::bf16;

use super::{Residual, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::sizes::Pieces;
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check<T: Float>(n: usize, c: usize, with_bias: bool, with_gamma: bool) {
    let device = Device::virtual_gpu();
    let s = Residual { n, c };
    let (x, exact_x) = stored::<T>(&noise(n * c, 1));
    let (r, exact_r) = stored::<T>(&noise(n * c, 2));
    let (dy, exact_dy) = stored::<T>(&noise(n * c, 3));
    let (bias, gamma, old) = (noise::<f32>(c, 4), noise::<f32>(c, 5), noise::<f32>(c, 6));
    let run = || {
        let up = |name, x: &[T]| device.upload(name, x).unwrap();
        let (x, r, dy) = (up("x", &x), up("r", &r), up("dy", &dy));
        let bias = with_bias.then(|| device.upload("bias", &bias).unwrap());
        let gamma = with_gamma.then(|| device.upload("gamma", &gamma).unwrap());
        let (bias, gamma) = (bias.as_ref().map(|b| b.view()), gamma.as_ref().map(|g| g.view()));
        let (mut y, mut dr) =
            (device.alloc("y", n * c).unwrap(), device.alloc("dr", n * c).unwrap());
        let mut dgamma = device.upload("dgamma", &old).unwrap();
        s.forward_gpu(&device, x.view(), r.view(), bias, gamma, y.view_mut()).unwrap();
        let (r, dr_out, dgamma_out) =
            (Some(r.view()), Some(dr.view_mut()), Some(dgamma.view_mut()));
        s.backward_gpu(&device, r, bias, gamma, dy.view(), dr_out, dgamma_out).unwrap();
        let down = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
        (down(&y), down(&dr), device.download(dgamma.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let one = vec![1.0; c];
    let (bias, gamma) = (wide(&bias), wide(&gamma));
    let scale = if with_gamma { &gamma } else { &one };
    let shifted: Vec<f64> =
        (0..n * c).map(|i| exact_r[i] + if with_bias { bias[i % c] } else { 0.0 }).collect();
    let (mut y, mut dr, mut dgamma) = (vec![0.0; n * c], vec![0.0; n * c], wide(&old));
    reference::forward(&s, &exact_x, &shifted, Some(scale), &mut y);
    reference::dr(&s, Some(scale), &exact_dy, &mut dr);
    reference::dgamma(&s, &shifted, &exact_dy, &mut dgamma);
    let what = format!("residual{} [{n}, {c}] {with_bias} {with_gamma}", T::SUFFIX);
    // Three operations, each of a value no larger than the sum of the magnitudes.
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| {
        let r = exact_r[i].abs() + if with_bias { bias[i % c].abs() } else { 0.0 };
        3.0 * UNIT * (exact_x[i].abs() + r * scale[i % c].abs())
    });
    assert_within(&format!("{what}, dr"), &got.1, &dr, |i| UNIT * dr[i].abs());
    let depth = Pieces::of(n).depth() + 2.0;
    assert_within(&format!("{what}, dgamma"), &got.2, &dgamma, |j| {
        let term =
            |i: usize| exact_dy[i * c + j].abs() * (exact_r[i * c + j].abs() + bias[j].abs());
        depth * UNIT * ((0..n).map(term).sum::<f64>() + f64::from(old[j].abs()))
    });
}

#[test]
fn kernels_match_the_reference() {
    for (n, c) in [(1, 1), (7, 13), (70, 40), (131, 264)] {
        for (bias, gamma) in [(false, true), (true, true), (false, false)] {
            check::<f32>(n, c, bias, gamma);
            check::<bf16>(n, c, bias, gamma);
        }
    }
}

#[test]
fn what_is_not_wanted_is_not_launched() {
    let device = Device::virtual_gpu();
    let s = Residual { n: 2, c: 3 };
    let dy = device.upload("dy", &[1.0f32; 6]).unwrap();
    s.backward_gpu(&device, None, None, None, dy.view(), None, None).unwrap();
    assert_eq!(device.counters().launches, 0);
    let mut dr = device.alloc("dr", 6).unwrap();
    s.backward_gpu(&device, None, None, None, dy.view(), Some(dr.view_mut()), None).unwrap();
    assert_eq!(device.counters().launches, 1);
    let mut dgamma = device.zeros("dgamma", 3).unwrap();
    let error = s
        .backward_gpu(&device, None, None, None, dy.view(), None, Some(dgamma.view_mut()))
        .unwrap_err();
    assert_eq!(error.to_string(), "residual: the gradient of gamma needs r");
}
