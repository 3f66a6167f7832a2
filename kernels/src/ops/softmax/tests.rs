use super::{Softmax, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum, wide};

const SHAPES: [Softmax; 5] = [
    Softmax { n: 1, c: 1 },
    Softmax { n: 3, c: 5 },
    Softmax { n: 2, c: 16 },
    Softmax { n: 400, c: 20 },
    Softmax { n: 3, c: 4099 },
];

#[test]
fn gradient_matches_central_differences() {
    for s in &SHAPES[..3] {
        let x: Vec<f64> = noise(s.n * s.c, 1).iter().map(|x: &f64| 3.0 * x).collect();
        let (dy, mut y, mut dx) = (noise(x.len(), 2), vec![0.0; x.len()], vec![0.0; x.len()]);
        s.forward(&x, &mut y).unwrap();
        s.backward(&y, &dy, &mut dx).unwrap();
        central_differences("softmax", &[x], &[dx], |x| {
            let mut y = vec![0.0; x[0].len()];
            s.forward(&x[0], &mut y).unwrap();
            weighted_sum(&y, &dy)
        });
    }
}

#[test]
fn fast_form_matches_reference() {
    for s in &SHAPES {
        let x: Vec<f32> = noise::<f32>(s.n * s.c, 1).iter().map(|x| 20.0 * x).collect();
        let dy = noise::<f32>(x.len(), 2);
        let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        let mut want = vec![f64::NAN; x.len()];
        cpu::forward(s, &x, &mut y);
        reference::forward(s, &wide(&x), &mut want);
        // A logit of 20 has a rounding error of 1e-6 when the maximum is subtracted.
        assert_close("y", &wide(&y), &want, 3e-6);
        cpu::backward(s, &y, &dy, &mut dx);
        reference::backward(s, &wide(&y), &wide(&dy), &mut want);
        assert_close("dx", &wide(&dx), &want, 1e-6);
    }
}

#[test]
fn large_logits_and_damaged_ones() {
    let s = Softmax { n: 3, c: 3 };
    let x = [1000.0f32, 1000.0, -1000.0, 0.0, f32::NEG_INFINITY, 0.0, 1.0, f32::NAN, 0.0];
    let mut y = [0.0; 9];
    s.forward(&x, &mut y).unwrap();
    assert_eq!(y[..6], [0.5, 0.5, 0.0, 0.5, 0.0, 0.5]);
    assert!(y[6..].iter().all(|y| y.is_nan()), "{y:?} hides a NaN");
}

#[test]
fn wrong_lengths_are_named() {
    let error = Softmax { n: 2, c: 3 }.forward(&[0.0f32; 5], &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "softmax: x has 5 elements, its sizes require 6");
}
