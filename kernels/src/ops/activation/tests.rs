use super::Activation::{Gelu, QuickGelu, Relu};
use super::{cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

#[test]
fn gradient_matches_central_differences() {
    for f in [Gelu, QuickGelu, Relu] {
        // Away from the kink of the ReLU, where a difference quotient is meaningless.
        let x: Vec<f64> = noise(41, 1).iter().map(|v: &f64| 3.0 * v + 0.01 * v.signum()).collect();
        let dy = noise(41, 2);
        let mut dx = vec![f64::NAN; 41];
        f.backward(&x, &dy, &mut dx).unwrap();
        central_differences("activation", &[x], &[dx], |inputs| {
            let mut y = vec![0.0; 41];
            f.forward(&inputs[0], &mut y).unwrap();
            weighted_sum(&y, &dy)
        });
    }
}

#[test]
fn fast_gelu_is_accurate_everywhere() {
    let x: Vec<f32> = (-150_000..=150_000).map(|i| i as f32 * 1e-4).collect();
    let exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let (mut y, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    cpu::forward(Gelu, &x, &mut y);
    for (want, x) in want.iter_mut().zip(&exact) {
        // The reference loses the far tail in 1 + erf; the complement keeps it.
        *want = 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
    }
    for i in 0..x.len() {
        // The tail has a small relative error: rounding x^2 / 2 before the exponential costs x^2 /
        // 2 ulp.
        let tolerance = 6e-7 * want[i].abs() * (1.0 + 0.5 * exact[i] * exact[i]) + 1e-36;
        let error = (f64::from(y[i]) - want[i]).abs();
        assert!(error <= tolerance, "gelu({}) = {}, not {}", x[i], y[i], want[i]);
    }
    let ones = vec![1.0; x.len()];
    let (mut dx, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    cpu::backward(Gelu, &x, &ones, &mut dx);
    reference::backward(Gelu, &exact, &vec![1.0; x.len()], &mut want);
    for i in 0..x.len() {
        let error = (f64::from(dx[i]) - want[i]).abs();
        assert!(error <= 4e-7, "gelu'({}) = {}, not {}", x[i], dx[i], want[i]);
    }
}

#[test]
fn fast_form_matches_reference() {
    for n in [1, 7, 16, 131, 100_003] {
        let x: Vec<f32> = noise(n, 1).iter().map(|v: &f32| 6.0 * v).collect();
        let dy = noise::<f32>(n, 2);
        for f in [Gelu, QuickGelu, Relu] {
            let (mut got, mut want) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            cpu::forward(f, &x, &mut got);
            reference::forward(f, &x, &mut want);
            assert_close(&format!("{f:?} of {n}"), &got, &want, 3e-7);
            cpu::backward(f, &x, &dy, &mut got);
            reference::backward(f, &x, &dy, &mut want);
            assert_close(&format!("{f:?}' of {n}"), &got, &want, 2e-6);
        }
    }
}

#[test]
fn ends_are_sane() {
    let x = [-1e30f32, -100.0, -0.0, 0.0, 100.0, 1e30];
    let mut y = [f32::NAN; 6];
    Gelu.forward(&x, &mut y).unwrap();
    assert_eq!(y, [0.0, 0.0, 0.0, 0.0, 100.0, 1e30]);
    QuickGelu.forward(&x, &mut y).unwrap();
    assert_eq!(y[1..], [-100.0 * (1.0 / (1.0 + 170.2f64.exp())) as f32, 0.0, 0.0, 100.0, 1e30]);
    let mut y = [0.0f32];
    for f in [Gelu, QuickGelu, Relu] {
        f.forward(&[f32::NAN], &mut y).unwrap();
        assert!(y[0].is_nan(), "{f:?} hides a NaN");
    }
}

#[test]
fn wrong_lengths_are_named() {
    let error = Relu.backward(&[0.0f32; 3], &[0.0; 2], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "activation: dy has 2 elements, its sizes require 3");
}
