use super::TokenLink;
use crate::check::{central_differences, noise, weighted_sum};

#[test]
fn gradient_matches_central_differences() {
    for (layers, m, c) in [(1, 1, 1), (3, 5, 7)] {
        let s = TokenLink { layers, m, c };
        let (q, dout) = (noise::<f64>(layers * m * c, 1), noise::<f64>(3 * m * c, 2));
        let mut dq = vec![f64::NAN; q.len()];
        s.backward(&q, &dout, &mut dq).unwrap();
        central_differences("token_link", &[q], &[dq], |x| {
            let mut out = vec![0.0; 3 * m * c];
            s.forward(&x[0], &mut out).unwrap();
            weighted_sum(&out, &dout)
        });
    }
}

#[test]
fn channels_are_interleaved_and_ties_go_to_the_first_layer() {
    let s = TokenLink { layers: 3, m: 1, c: 2 };
    let q = [4.0f32, 1.0, 4.0, 5.0, 1.0, 3.0];
    let mut out = [0.0; 6];
    s.forward(&q, &mut out).unwrap();
    assert_eq!(out, [4.0, 3.0, 1.0, 5.0, 3.0, 3.0]);
    let mut dq = [f32::NAN; 6];
    s.backward(&q, &[10.0, 3.0, 1.0, 20.0, 6.0, 2.0], &mut dq).unwrap();
    assert_eq!(dq, [11.0, 2.0, 1.0, 22.0, 2.0, 4.0]);
}

#[test]
fn no_layer_is_an_error() {
    let s = TokenLink { layers: 0, m: 1, c: 1 };
    let error = s.forward::<f32>(&[], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "token_link: there are no layers");
}
