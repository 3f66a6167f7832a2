use super::{Linear, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// n, m, k: ones, primes, no multiple of anything, a class layer, a token row count of ViT-S.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 1), (7, 13, 5), (33, 50, 47), (100, 20, 256), (257, 384, 96)];

#[test]
fn gradient_matches_central_differences() {
    let (n, m, k) = (3, 5, 4);
    let s = Linear { n, m, k };
    let inputs = [noise::<f64>(n * k, 1), noise(m * k, 2), noise(m, 3)];
    let dy = noise(n * m, 4);
    let mut grads = [vec![f64::NAN; n * k], vec![0.0; m * k], vec![0.0; m]];
    let [dx, dw, db] = &mut grads;
    s.backward(Some(&inputs[0]), &inputs[1], &dy, Some(dx), Some(dw), Some(db)).unwrap();
    central_differences("linear", &inputs, &grads, |inputs| {
        let mut y = vec![0.0; n * m];
        s.forward(&inputs[0], &inputs[1], Some(&inputs[2]), &mut y).unwrap();
        weighted_sum(&y, &dy)
    });
}

#[test]
fn fast_form_matches_reference() {
    for (n, m, k) in SHAPES {
        let s = Linear { n, m, k };
        let (x, w) = (noise::<f32>(n * k, 1), noise::<f32>(m * k, 2));
        let (b, dy) = (noise::<f32>(m, 3), noise::<f32>(n * m, 4));
        for bias in [None, Some(&b[..])] {
            let (mut y, mut want) = (vec![f32::NAN; n * m], vec![0.0; n * m]);
            s.forward(&x, &w, bias, &mut y).unwrap();
            reference::forward(&s, &x, &w, bias, &mut want);
            assert_close(&format!("y of {s:?}"), &y, &want, 2e-6);
        }
        // Parameter gradients start from something, and are added to it.
        let start = || (vec![f32::NAN; n * k], noise::<f32>(m * k, 5), noise::<f32>(m, 6));
        let (mut got, mut want) = (start(), start());
        let (dx, dw, db) = (&mut got.0, &mut got.1, &mut got.2);
        s.backward(Some(&x), &w, &dy, Some(dx), Some(dw), Some(db)).unwrap();
        reference::backward(&s, &x, &w, &dy, &mut want.0, &mut want.1, &mut want.2);
        assert_close(&format!("dx of {s:?}"), &got.0, &want.0, 5e-6);
        assert_close(&format!("dweight of {s:?}"), &got.1, &want.1, 5e-6);
        assert_close(&format!("dbias of {s:?}"), &got.2, &want.2, 5e-6);
    }
}

#[test]
fn a_frozen_layer_needs_no_input() {
    let s = Linear { n: 2, m: 3, k: 4 };
    let (w, dy) = (noise::<f32>(12, 1), noise::<f32>(6, 2));
    let mut dx = vec![0.0; 8];
    s.backward(None, &w, &dy, Some(&mut dx), None, None).unwrap();
    assert!(dx.iter().all(|v| *v != 0.0));
    let error = s.backward(None, &w, &dy, None, Some(&mut [0.0; 12]), None).unwrap_err();
    assert_eq!(error.to_string(), "linear: the gradient of the weight needs x");
}

#[test]
fn wrong_lengths_are_named() {
    let s = Linear { n: 1, m: 2, k: 3 };
    let error = s.forward(&[0.0f32; 3], &[0.0; 5], None, &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "linear: weight has 5 elements, its sizes ask for 6");
}
