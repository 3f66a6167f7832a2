use super::{Backward, Forward, TokenLink};
use crate::call::{Call, Host};

#[test]
fn channels_are_interleaved_and_ties_go_to_the_first_layer() {
    let s = TokenLink { layers: 3, m: 1, c: 2 };
    let q = &[4.0f32, 1.0, 4.0, 5.0, 1.0, 3.0];
    let mut out = [0.0; 6];
    Forward::<Host, _> { q, out: &mut out }.run(&s).unwrap();
    assert_eq!(out, [4.0, 3.0, 1.0, 5.0, 3.0, 3.0]);
    let (dout, mut dq) = (&[10.0, 3.0, 1.0, 20.0, 6.0, 2.0], [f32::NAN; 6]);
    Backward::<Host, _> { q, dout, dq: &mut dq }.run(&s).unwrap();
    assert_eq!(dq, [11.0, 2.0, 1.0, 22.0, 2.0, 4.0]);
}

#[test]
fn no_layer_is_an_error() {
    let s = TokenLink { layers: 0, m: 1, c: 1 };
    let error = Forward::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "token_link: there are no layers");
}
