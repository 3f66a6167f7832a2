use half::bf16;

use super::{Linear, reference};
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::sizes::Pieces;
use crate::device::{Device, Float};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check<T: Float>(n: usize, m: usize, k: usize) {
    let device = Device::virtual_gpu();
    let s = Linear { n, m, k };
    let (x, exact_x) = stored::<T>(&noise(n * k, 1));
    let (weight, exact_weight) = stored::<T>(&noise(m * k, 2));
    let (dy, exact_dy) = stored::<T>(&noise(n * m, 3));
    let (bias, old) = (noise::<f32>(m, 4), noise::<f32>(m * k, 5));
    let run = || {
        let up = |name, x: &[T]| device.upload(name, x).unwrap();
        let (x, weight, dy) = (up("x", &x), up("weight", &weight), up("dy", &dy));
        let bias = device.upload("bias", &bias).unwrap();
        let mut y = device.alloc("y", n * m).unwrap();
        let (x, weight, dy) = (x.view(), weight.view(), dy.view());
        s.forward_gpu(&device, x, weight, Some(bias.view()), y.view_mut()).unwrap();
        let mut dx = device.alloc("dx", n * k).unwrap();
        let mut dweight = device.upload("dweight", &old).unwrap();
        let mut dbias = device.upload("dbias", &old[..m]).unwrap();
        let (dx_out, dw) = (Some(dx.view_mut()), Some(dweight.view_mut()));
        let db = Some(dbias.view_mut());
        s.backward_gpu(&device, Some(x), weight, dy, dx_out, dw, db).unwrap();
        let down = |b: &crate::device::Buffer<f32>| device.download(b.view()).unwrap();
        let big = |b: &crate::device::Buffer<T>| device.download(b.view()).unwrap();
        (big(&y), big(&dx), down(&dweight), down(&dbias))
    };
    let got = run();
    assert_eq!(got, run());
    let (mut y, mut dx) = (vec![0.0; n * m], vec![0.0; n * k]);
    let (mut dweight, mut dbias) = (wide(&old), wide(&old[..m]));
    reference::forward(&s, &exact_x, &exact_weight, Some(&wide(&bias)), &mut y);
    s.backward(
        Some(&exact_x),
        &exact_weight,
        &exact_dy,
        Some(&mut dx),
        Some(&mut dweight),
        Some(&mut dbias),
    )
    .unwrap();
    let what = format!("linear{} [{n}, {m}, {k}]", T::SUFFIX);
    // Sums of so many products below 1; the product is stored before the bias is added.
    let sum = |terms: usize| (terms + 2) as f64 * UNIT * (terms + 1) as f64;
    let twice = f64::from(T::ROUNDING);
    assert_within(&format!("{what}, forward"), &got.0, &y, |i| {
        sum(k) + twice * (y[i].abs() + f64::from(bias[i % m].abs()) + sum(k))
    });
    assert_within(&format!("{what}, dx"), &got.1, &dx, |_| sum(m));
    assert_within(&format!("{what}, dweight"), &got.2, &dweight, |_| sum(n));
    let depth = Pieces::of(n).depth();
    assert_within(&format!("{what}, dbias"), &got.3, &dbias, |_| depth * UNIT * (n + 1) as f64);
}

#[test]
fn products_and_biases_match_the_reference() {
    for (n, m, k) in [(1, 1, 1), (7, 13, 5), (70, 24, 40)] {
        check::<f32>(n, m, k);
        check::<bf16>(n, m, k);
    }
    let device = Device::virtual_gpu();
    let x = device.zeros::<f32>("x", 6).unwrap();
    let s = Linear { n: 2, m: 3, k: 2 };
    let mut dweight = device.zeros("dweight", 6).unwrap();
    let dw = Some(dweight.view_mut());
    let error = s.backward_gpu(&device, None, x.view(), x.view(), None, dw, None).unwrap_err();
    assert_eq!(error.to_string(), "linear: the gradient of the weight needs x");
}
