use super::{Forward, SemanticScores};
use crate::Real;
use crate::call::{Call, Host};
use crate::check::{assert_close, noise, wide};
use crate::ops::resize::{Axis, Mode, Step};

fn size(q: usize, k: usize, [h, w, ho, wo]: [usize; 4]) -> SemanticScores {
    let axis = |n_in, n_out| Axis::new(n_in, n_out, Mode::Bilinear, Step::Size).unwrap();
    SemanticScores { q, k, y: axis(h, ho), x: axis(w, wo) }
}

fn scores<T: Real>(s: &SemanticScores, cls: &[T], masks: &[T]) -> Vec<T> {
    let mut scores = vec![T::of(f64::NAN); s.k * s.pixels()];
    Forward::<Host, T> { cls, masks, scores: &mut scores }.run(s).unwrap();
    scores
}

#[test]
fn by_hand() {
    // Two queries, one class and "no object": probabilities 1/2 and 3/4, sigmoids 1/2 and 3/4.
    let (s, ln3) = (size(2, 1, [1, 2, 1, 2]), 3f32.ln());
    let got = scores(&s, &[0.0, 0.0, ln3, 0.0], &[0.0, ln3, ln3, -ln3]);
    let want = [0.5 * 0.5 + 0.75 * 0.75, 0.5 * 0.75 + 0.75 * 0.25];
    assert_close("scores", &got, &want, 1e-6);
}

#[test]
fn fast_form_is_accurate() {
    for (q, k, sizes, share) in [
        (1, 1, [1, 1, 1, 1], 1e-6),
        (7, 5, [1, 13, 1, 13], 1e-6),
        (3, 2, [5, 205, 5, 205], 1e-6),
        (100, 19, [32, 64, 32, 64], 1e-6),
        (0, 3, [1, 5, 1, 5], 1e-6),
        (7, 3, [5, 4, 13, 11], 3e-6),
        (20, 19, [32, 32, 128, 128], 3e-6),
    ] {
        let s = size(q, k, sizes);
        let cls: Vec<f32> = noise::<f32>(q * (k + 1), 1).iter().map(|v| v * 5.0).collect();
        let count = q * sizes[0] * sizes[1];
        let masks: Vec<f32> = noise::<f32>(count, 2).iter().map(|v| v * 15.0).collect();
        let want = scores(&s, &wide(&cls), &wide(&masks));
        assert_close("scores", &wide(&scores(&s, &cls, &masks)), &want, share);
    }
}
