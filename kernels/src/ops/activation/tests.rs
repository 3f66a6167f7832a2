use super::Activation::{self, Gelu, QuickGelu, Relu};
use super::{Backward, Forward, Pointwise};
use crate::call::{Call, Host};

fn forward(f: Activation, x: &[f32], y: &mut [f32]) {
    let s = Pointwise { f, n: x.len() };
    Forward::<Host, _> { x, y }.run(&s).unwrap();
}

#[test]
fn fast_gelu_is_accurate_everywhere() {
    let x: Vec<f32> = (-150_000..=150_000).map(|i| i as f32 * 1e-4).collect();
    let exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let (mut y, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    forward(Gelu, &x, &mut y);
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
    let s = Pointwise { f: Gelu, n: x.len() };
    Backward::<Host, _> { x: &x, dy: &ones, dx: &mut dx }.run(&s).unwrap();
    let (x_exact, ones) = (&exact[..], &vec![1.0; x.len()][..]);
    Backward::<Host, _> { x: x_exact, dy: ones, dx: &mut want }.run(&s).unwrap();
    for i in 0..x.len() {
        let error = (f64::from(dx[i]) - want[i]).abs();
        assert!(error <= 4e-7, "gelu'({}) = {}, not {}", x[i], dx[i], want[i]);
    }
}

#[test]
fn ends_are_sane() {
    let x = [-1e30f32, -100.0, -0.0, 0.0, 100.0, 1e30];
    let mut y = [f32::NAN; 6];
    forward(Gelu, &x, &mut y);
    assert_eq!(y, [0.0, 0.0, 0.0, 0.0, 100.0, 1e30]);
    forward(QuickGelu, &x, &mut y);
    assert_eq!(y[1..], [-100.0 * (1.0 / (1.0 + 170.2f64.exp())) as f32, 0.0, 0.0, 100.0, 1e30]);
    let mut y = [0.0f32];
    for f in [Gelu, QuickGelu, Relu] {
        forward(f, &[f32::NAN], &mut y);
        assert!(y[0].is_nan(), "{f:?} hides a NaN");
    }
}
