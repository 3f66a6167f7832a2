use super::{Residual, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// One, primes, not a multiple of the lanes, ViT-S width with more rows than one task handles.
const SHAPES: [(usize, usize); 4] = [(1, 1), (7, 13), (3, 48), (257, 384)];

#[test]
fn gradient_matches_central_differences() {
    let s = Residual { n: 3, c: 5 };
    let inputs = [noise::<f64>(15, 1), noise(15, 2), noise(5, 3)];
    let dy = noise::<f64>(15, 4);
    let (mut dr, mut dgamma) = (vec![f64::NAN; 15], vec![0.0; 5]);
    let (r, gamma) = (&inputs[1], &inputs[2]);
    s.backward(Some(r), Some(gamma), &dy, Some(&mut dr), Some(&mut dgamma)).unwrap();
    central_differences("residual", &inputs, &[dy.clone(), dr, dgamma], |inputs| {
        let mut y = vec![0.0; 15];
        s.forward(&inputs[0], &inputs[1], Some(&inputs[2]), &mut y).unwrap();
        weighted_sum(&y, &dy)
    });
}

#[test]
fn fast_form_matches_reference() {
    for (n, c) in SHAPES {
        let s = Residual { n, c };
        let (x, r, dy) = (noise::<f32>(n * c, 1), noise::<f32>(n * c, 2), noise::<f32>(n * c, 3));
        let gamma = noise::<f32>(c, 4);
        for gamma in [None, Some(&gamma[..])] {
            let (mut got, mut want) = (vec![f32::NAN; n * c], vec![f32::NAN; n * c]);
            cpu::forward(&s, &x, &r, gamma, &mut got);
            reference::forward(&s, &x, &r, gamma, &mut want);
            assert_close("y", &got, &want, 2e-7);
            cpu::dr(&s, gamma, &dy, &mut got);
            reference::dr(&s, gamma, &dy, &mut want);
            assert_eq!(got, want, "dr of {s:?}");
        }
        let (mut got, mut want) = (noise::<f32>(c, 5), noise::<f32>(c, 5));
        cpu::dgamma(&s, &r, &dy, &mut got);
        reference::dgamma(&s, &r, &dy, &mut want);
        assert_close("dgamma", &got, &want, 3e-6);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let s = Residual { n: 2, c: 3 };
    let error = s.forward(&[0.0f32; 6], &[0.0; 6], Some(&[0.0; 2]), &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "residual: gamma has 2 elements, its sizes require 3");
    let error = s.backward(None, None, &[0.0f32; 6], None, Some(&mut [0.0; 3])).unwrap_err();
    assert_eq!(error.to_string(), "residual: the gradient of gamma needs r");
}
