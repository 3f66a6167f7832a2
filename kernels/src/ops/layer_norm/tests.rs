use super::{LayerNorm, Stats, cpu, reference};
use crate::Write;
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// Rows and channels: one, a prime, not a multiple of the lanes, ViT-S width with more rows than
/// one task handles.
const SHAPES: [(usize, usize); 4] = [(1, 1), (7, 13), (3, 48), (257, 384)];

#[test]
fn gradient_matches_central_differences() {
    for (n, c) in [(1, 5), (3, 7)] {
        let s = LayerNorm { n, c, eps: 1e-6 };
        let inputs = [noise::<f64>(n * c, 1), noise(c, 2), noise(c, 3)];
        let dy = noise(n * c, 4);
        let run = |inputs: &[Vec<f64>]| {
            let (mut y, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
            s.forward(&inputs[0], &inputs[1], &inputs[2], &mut y, &mut mean, &mut rstd).unwrap();
            (y, mean, rstd)
        };
        let (_, mean, rstd) = run(&inputs);
        let mut grads = [vec![0.0; n * c], vec![0.0; c], vec![0.0; c]];
        let [dx, dw, db] = &mut grads;
        let stats = Stats { mean: &mean, rstd: &rstd };
        let dx = Some((&mut dx[..], Write::Over));
        s.backward(&inputs[0], &inputs[1], stats, &dy, dx, Some(dw), Some(db)).unwrap();
        central_differences("layer_norm", &inputs, &grads, |inputs| {
            weighted_sum(&run(inputs).0, &dy)
        });
    }
}

type Backward<'a> = &'a dyn Fn(Stats<'_, f32>, (&mut [f32], Write), &mut [f32], &mut [f32]);

#[test]
fn fast_form_matches_reference() {
    for (n, c) in SHAPES {
        let s = LayerNorm { n, c, eps: 1e-6 };
        // A mean far from zero, where E[x^2] - E[x]^2 would fail.
        let x: Vec<f32> = noise::<f32>(n * c, 1).iter().map(|v| v + 100.0).collect();
        let (w, b, dy) = (noise::<f32>(c, 2), noise::<f32>(c, 3), noise::<f32>(n * c, 4));
        let zeros = || (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
        let (mut y, mut mean, mut rstd) = zeros();
        cpu::forward(&s, &x, &w, &b, &mut y, &mut mean, &mut rstd);
        let (mut y0, mut mean0, mut rstd0) = zeros();
        reference::forward(&s, &x, &w, &b, &mut y0, &mut mean0, &mut rstd0);
        // The mean of about 100 has a rounding error of 1e-5, compared with values of order one
        // after centring.
        assert_close("y", &y, &y0, 5e-5);
        assert_close("rstd", &rstd, &rstd0, 5e-5);
        let mut stats = (vec![0.0; n], vec![0.0; n]);
        s.stats(&x, &mut stats.0, &mut stats.1).unwrap();
        assert_eq!(stats, (mean, rstd));
        let run = |f: Backward<'_>| {
            // Overwritten outputs must not be read: 0 * NaN would stay NaN.
            let (mut dx, mut sum) = (vec![f32::NAN; n * c], noise(n * c, 7));
            let (mut dw, mut db) = (noise(c, 5), noise(c, 6));
            let st = || Stats { mean: &mean0, rstd: &rstd0 };
            f(st(), (&mut sum, Write::Add), &mut [0.0; 384][..c], &mut [0.0; 384][..c]);
            f(st(), (&mut dx, Write::Over), &mut dw, &mut db);
            (dx, dw, db, sum)
        };
        let a =
            run(&|st, dx, dw, db| cpu::backward(&s, &x, &w, st, &dy, Some(dx), Some(dw), Some(db)));
        let r = run(&|st, dx, dw, db| {
            reference::backward(&s, &x, &w, st, &dy, Some(dx), Some(dw), Some(db))
        });
        assert_close("dx", &a.0, &r.0, 1e-5);
        assert_close("dweight", &a.1, &r.1, 1e-5);
        assert_close("dbias", &a.2, &r.2, 1e-5);
        assert_close("dx added", &a.3, &r.3, 1e-5);
        assert_ne!(a.0, a.3);
    }
}

#[test]
fn wrong_lengths_are_named() {
    let s = LayerNorm { n: 2, c: 3, eps: 1e-6 };
    let (mut y, mut mean, mut rstd) = (vec![0.0f32; 6], vec![0.0; 2], vec![0.0; 2]);
    let error =
        s.forward(&[0.0; 5], &[0.0; 3], &[0.0; 3], &mut y, &mut mean, &mut rstd).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: x has 5 elements, its sizes require 6");
}
