use super::{Gradients, Rein, Weights, cpu, reference};
use crate::Real;
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// One token, no skipped row, primes, no multiple of a block or vector, DINOv2-S at its real size.
const SHAPES: [Rein; 5] = [
    Rein { b: 1, skip: 0, n: 1, c: 1, m: 1, softmax: true },
    Rein { b: 2, skip: 1, n: 3, c: 5, m: 4, softmax: true },
    Rein { b: 2, skip: 5, n: 67, c: 37, m: 13, softmax: true },
    Rein { b: 2, skip: 0, n: 130, c: 80, m: 17, softmax: false },
    Rein { b: 1, skip: 1, n: 1024, c: 384, m: 100, softmax: true },
];

/// f, tokens, values, weight, bias, scale.
fn inputs<T: Real>(s: &Rein) -> [Vec<T>; 6] {
    let (c, m) = (s.c, s.m);
    let weight = noise::<T>(c * c, 4).iter().map(|&w| w / T::of(c as f64).sqrt()).collect();
    let f = noise(s.b * (s.skip + s.n) * c, 1);
    // Tokens of this magnitude make the softmax uneven, so that a lost column would be detected.
    let tokens = noise::<T>(m * c, 2).iter().map(|&t| t * T::of(3.0)).collect();
    [f, tokens, noise((m - 1) * c, 3), weight, noise(c, 5), vec![T::of(0.7)]]
}

fn weights<T>(x: &[Vec<T>]) -> Weights<'_, T> {
    Weights { tokens: &x[1], values: &x[2], weight: &x[3], bias: &x[4], scale: &x[5] }
}

/// Gradient outputs in `d`, in the order of the inputs, limited to those in `wanted`.
fn gradients<'a, T>(d: &'a mut [Vec<T>; 6], wanted: [bool; 6]) -> Gradients<'a, T> {
    let mut i = 0;
    let [df, dtokens, dvalues, dweight, dbias, dscale] = d.each_mut().map(|d| {
        i += 1;
        wanted[i - 1].then_some(&mut d[..])
    });
    Gradients { df, dtokens, dvalues, dweight, dbias, dscale }
}

/// Start values of the gradients: `df` must be overwritten, the others added to.
fn start<T: Real>(x: &[Vec<T>; 6]) -> [Vec<T>; 6] {
    let mut i = 0;
    x.each_ref().map(|x| {
        i += 1;
        if i == 1 { vec![T::of(f64::NAN); x.len()] } else { vec![T::ZERO; x.len()] }
    })
}

#[test]
fn gradient_matches_central_differences() {
    for softmax in [true, false] {
        for s in &SHAPES[..2] {
            let s = Rein { softmax, ..*s };
            let x = inputs::<f64>(&s);
            let dout = noise::<f64>(x[0].len(), 7);
            let run = |x: &[Vec<f64>]| {
                let (mut out, mut lse) = (vec![0.0; x[0].len()], vec![0.0; s.b * s.n]);
                s.forward(&x[0], weights(x), &mut out, &mut lse).unwrap();
                (out, lse)
            };
            let lse = run(&x).1;
            let mut d = start(&x);
            let all = gradients(&mut d, [true; 6]);
            s.backward(&x[0], weights(&x), &lse, &dout, all).unwrap();
            central_differences("rein", &x, &d, |x| weighted_sum(&run(x).0, &dout));
        }
    }
}

#[test]
fn fast_form_matches_reference() {
    for s in &SHAPES {
        let x = inputs::<f32>(s);
        let dout = noise::<f32>(x[0].len(), 7);
        let fresh = || (vec![f32::NAN; x[0].len()], vec![f32::NAN; s.b * s.n]);
        let ((mut out, mut lse), (mut out0, mut lse0)) = (fresh(), fresh());
        cpu::forward(s, &x[0], weights(&x), &mut out, &mut lse);
        reference::forward(s, &x[0], weights(&x), &mut out0, &mut lse0);
        // Scores are sums of c products, and weights their exponentials.
        assert_close("out", &out, &out0, 2e-5);
        assert_close("lse", &lse, &lse0, 1e-5);
        let (mut fast, mut slow) = (start(&x), start(&x));
        fast[3].fill(0.25);
        slow[3].fill(0.25);
        let all = gradients(&mut fast, [true; 6]);
        cpu::backward(s, &x[0], weights(&x), &lse0, &dout, all);
        let all = gradients(&mut slow, [true; 6]);
        reference::backward(s, &x[0], weights(&x), &lse0, &dout, all);
        for (i, name) in ["df", "dT", "dV", "dW_f", "db_f", "ds"].into_iter().enumerate() {
            assert_close(name, &fast[i], &slow[i], 1e-4);
            let (mut alone, mut only) = (start(&x), [false; 6]);
            alone[3].fill(0.25);
            only[i] = true;
            cpu::backward(s, &x[0], weights(&x), &lse0, &dout, gradients(&mut alone, only));
            assert_eq!(alone[i], fast[i], "{name} depends on which gradients are wanted");
        }
    }
}

#[test]
fn skipped_rows_pass_unchanged() {
    let s = SHAPES[2];
    let x = inputs::<f32>(&s);
    let (mut out, mut lse) = (vec![f32::NAN; x[0].len()], vec![0.0; s.b * s.n]);
    s.forward(&x[0], weights(&x), &mut out, &mut lse).unwrap();
    let (dout, mut d) = (noise::<f32>(out.len(), 7), start(&x));
    let only = gradients(&mut d, [true, false, false, false, false, false]);
    s.backward(&x[0], weights(&x), &lse, &dout, only).unwrap();
    let image = (s.skip + s.n) * s.c;
    for i in 0..s.b {
        let rows = i * image..i * image + s.skip * s.c;
        assert_eq!(out[rows.clone()], x[0][rows.clone()]);
        assert_eq!(d[0][rows.clone()], dout[rows]);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = SHAPES[2];
    let x = inputs::<f32>(&s);
    let dout = noise::<f32>(x[0].len(), 7);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut out, mut lse) = (vec![0.0; x[0].len()], vec![0.0; s.b * s.n]);
            s.forward(&x[0], weights(&x), &mut out, &mut lse).unwrap();
            let mut d = start(&x);
            let all = gradients(&mut d, [true; 6]);
            s.backward(&x[0], weights(&x), &lse, &dout, all).unwrap();
            (out, lse, d)
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn wrong_lengths_are_named() {
    let s = SHAPES[1];
    let mut x = inputs::<f32>(&s);
    x[2].pop();
    let mut out = vec![0.0; x[0].len()];
    let error = s.forward(&x[0], weights(&x), &mut out, &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "rein: values has 14 elements, its sizes require 15");
}
