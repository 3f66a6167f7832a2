use half::bf16;

use super::{Input, Linear, Output, ParameterGradients, Weight, reference};
use crate::Real;
use crate::call::{Call, Host};
use crate::check::{assert_close, central_differences, noise, weighted_sum};
use crate::ops::layer_norm::{LayerNorm, Normed, Stats};

/// n, m, k: ones, primes, no multiples of a block size, a class layer, tokens of ViT-S.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 1), (7, 13, 5), (33, 50, 47), (100, 20, 256), (257, 384, 96)];

/// Test case of a fused layer and its neighbours, in the order of [`Surrounded::inputs`].
struct Surrounded {
    s: Linear,
    f: usize,
    residual: bool,
    gamma: bool,
}

impl Surrounded {
    fn all(s: Linear) -> impl Iterator<Item = Surrounded> {
        let outputs = [(false, false), (true, false), (true, true)];
        (0..3).flat_map(move |f| {
            outputs.map(|(residual, gamma)| Surrounded { s, f, residual, gamma })
        })
    }

    /// z, x, weight, bias, gamma, weight and bias of the norm.
    fn inputs<T: Real>(&self) -> [Vec<T>; 7] {
        let Linear { n, m, k } = self.s;
        [n * k, n * m, m * k, m, m, k, k].map(|len| noise(len, len as u64 + 3))
    }

    fn run<T: Real>(
        &self,
        [z, x, w, b, gamma, norm_w, norm_b]: &[Vec<T>; 7],
        plain: bool,
    ) -> Vec<T> {
        let s = &self.s;
        let (mut mean, mut rstd) = (vec![T::ZERO; s.n], vec![T::ZERO; s.n]);
        let rows = LayerNorm { n: s.n, c: s.k, eps: 1e-6 };
        Stats::<Host, T> { x: z, mean: &mut mean, rstd: &mut rstd }.run(&rows).unwrap();
        let input = match self.f {
            0 => Input::Plain(&z[..]),
            1 => Input::Gelu(&z[..]),
            _ => {
                Input::Normed(Normed { z, mean: &mean, rstd: &rstd, weight: norm_w, bias: norm_b })
            }
        };
        let gamma = self.gamma.then_some(&gamma[..]);
        let output = if self.residual { Output::Residual { x, gamma } } else { Output::Plain };
        let mut y = vec![T::of(f64::NAN); s.n * s.m];
        let (weight, b) = (Weight::Full(&w[..]), Some(&b[..]));
        if plain {
            reference::fused(s, input, weight, b, output, &mut y);
        } else {
            s.fused(input, weight, b, output, &mut y).unwrap();
        }
        y
    }

    /// Gradient of the operand of the product (of z with GELU).
    fn back<T: Real>(&self, inputs: &[Vec<T>; 7], dy: &[T], plain: bool) -> Vec<T> {
        let [z, _, w, _, gamma, ..] = inputs;
        let (gelu, gamma) = ((self.f == 1).then_some(&z[..]), self.gamma.then_some(&gamma[..]));
        let mut dz = vec![T::of(f64::NAN); z.len()];
        let weight = Weight::Full(&w[..]);
        if plain {
            reference::fused_backward(&self.s, weight, gamma, gelu, dy, &mut dz);
        } else {
            self.s.fused_backward(weight, gamma, gelu, dy, &mut dz).unwrap();
        }
        dz
    }
}

#[test]
fn fused_gradients_match_central_differences() {
    for case in Surrounded::all(Linear { n: 3, m: 5, k: 4 }).filter(|case| case.f < 2) {
        let inputs = case.inputs::<f64>();
        let dy = noise::<f64>(15, 9);
        let dz = case.back(&inputs, &dy, false);
        central_differences("fused linear", &inputs[..1], &[dz], |z| {
            let mut at = inputs.clone();
            at[0].clone_from(&z[0]);
            weighted_sum(&case.run(&at, false), &dy)
        });
    }
}

#[test]
fn fused_forms_match_reference() {
    for (n, m, k) in SHAPES.into_iter().chain([(130, 70, 1500)]) {
        for case in Surrounded::all(Linear { n, m, k }) {
            let inputs = case.inputs::<f32>();
            // A row of one channel has zero variance: its normalised value is only rounding error.
            if case.f < 2 || k > 1 {
                let (got, want) = (case.run(&inputs, false), case.run(&inputs, true));
                assert_close(&format!("y of {n} {m} {k}"), &got, &want, 1e-5);
            }
            let dy = noise::<f32>(n * m, 9);
            let (got, want) = (case.back(&inputs, &dy, false), case.back(&inputs, &dy, true));
            assert_close(&format!("dz of {n} {m} {k}"), &got, &want, 1e-5);
        }
    }
}

#[test]
fn a_narrow_weight_is_the_same_layer_with_rounded_weights() {
    let s = Linear { n: 30, m: 45, k: 70 };
    let (x, w, dy) = (noise::<f32>(2100, 1), noise::<f32>(3150, 2), noise::<f32>(1350, 3));
    let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let rounded: Vec<f32> = narrow.iter().map(|w| w.to_f32()).collect();
    let run = |weight: Weight<'_, f32>| {
        let (mut y, mut dx) = (vec![f32::NAN; 1350], vec![f32::NAN; 2100]);
        s.fused(Input::Plain(&x), weight, None, Output::Plain, &mut y).unwrap();
        s.fused_backward(weight, None, None, &dy, &mut dx).unwrap();
        (y, dx)
    };
    assert_eq!(run(Weight::Bf16(&narrow)), run(Weight::Full(&rounded)));
    assert_ne!(run(Weight::Bf16(&narrow)), run(Weight::Full(&w)));
}

#[test]
fn a_gradient_of_the_weight_needs_x() {
    let (s, mut dweight) = (Linear { n: 2, m: 3, k: 2 }, [0.0f32; 6]);
    let (x, dy, dweight) = (None, &[0.0; 6][..], Some(&mut dweight[..]));
    let call = ParameterGradients::<Host, f32> { x, dy, dweight, dbias: None };
    let error = call.run(&s).unwrap_err().to_string();
    assert_eq!(error, "linear: x has 0 elements, its sizes require 4");
}
