use super::{SemanticScores, reference};
use crate::call::{Call, Host};
use crate::check::{assert_close, noise};
use crate::ops::resize::{self, Axis, Mode, Resize, Step};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn by_hand() {
    // Two queries, one class and "no object": probabilities 1/2 and 3/4, sigmoids 1/2 and 3/4.
    let ln3 = 3f32.ln();
    let s = SemanticScores { q: 2, k: 1 };
    let mut scores = [f32::NAN; 2];
    s.compute(2, &[0.0, 0.0, ln3, 0.0], &[0.0, ln3, ln3, -ln3], &mut scores).unwrap();
    let want = [0.5 * 0.5 + 0.75 * 0.75, 0.5 * 0.75 + 0.75 * 0.25];
    assert_close("scores", &scores, &want, 1e-6);
}

#[test]
fn fast_form_matches_reference_in_f64() {
    for (q, k, n) in [(1, 1, 1), (7, 5, 13), (3, 2, 1025), (100, 19, 2048), (0, 3, 5)] {
        let s = SemanticScores { q, k };
        let cls: Vec<f32> = noise::<f32>(q * (k + 1), 1).iter().map(|v| v * 5.0).collect();
        let masks: Vec<f32> = noise::<f32>(q * n, 2).iter().map(|v| v * 15.0).collect();
        let mut fast = vec![f32::NAN; k * n];
        s.compute(n, &cls, &masks, &mut fast).unwrap();
        let mut want = vec![f64::NAN; k * n];
        reference::compute(&s, n, &s.probabilities(&wide(&cls)), &wide(&masks), &mut want);
        assert_close("scores", &wide(&fast), &want, 1e-6);
    }
}

#[test]
fn upsampling_on_the_way_is_upsampling_first() {
    for (q, k, h, w, ho, wo) in
        [(1, 1, 1, 1, 1, 1), (7, 3, 5, 4, 13, 11), (20, 19, 32, 32, 128, 128)]
    {
        let y = Axis::new(h, ho, Mode::Bilinear, Step::Size).unwrap();
        let x = Axis::new(w, wo, Mode::Bilinear, Step::Size).unwrap();
        let s = SemanticScores { q, k };
        let cls = noise::<f32>(q * (k + 1), 1);
        let masks: Vec<f32> = noise::<f32>(q * h * w, 2).iter().map(|v| v * 15.0).collect();
        let mut full = vec![f32::NAN; q * ho * wo];
        let resize = Resize { n: q, c: 1, y: y.clone(), x: x.clone() };
        resize::Forward::<Host, _> { x: &masks, y: &mut full }.run(&resize).unwrap();
        let (mut fused, mut want) = (vec![f32::NAN; k * ho * wo], vec![f32::NAN; k * ho * wo]);
        s.upsampled(&y, &x, &cls, &masks, &mut fused).unwrap();
        s.compute(ho * wo, &cls, &full, &mut want).unwrap();
        assert_close("upsampled", &fused, &want, 1e-6);
        let mut exact = vec![f64::NAN; k * ho * wo];
        s.upsampled(&y, &x, &wide(&cls), &wide(&masks), &mut exact).unwrap();
        assert_close("upsampled in f64", &wide(&fused), &exact, 3e-6);
    }
}

#[test]
fn wrong_lengths_are_named() {
    let s = SemanticScores { q: 2, k: 1 };
    let error = s.compute(3, &[0.0f32; 4], &[0.0; 5], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "semantic_scores: masks has 5 elements, its sizes require 6");
}
