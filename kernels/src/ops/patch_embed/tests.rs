use super::{PatchEmbed, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// One pixel, one channel, an image that is not square, patches of 14 and 16 pixels as published.
const SHAPES: [PatchEmbed; 4] = [
    PatchEmbed { b: 1, channels: 1, h: 1, w: 1, p: 1, c: 1 },
    PatchEmbed { b: 2, channels: 3, h: 6, w: 9, p: 3, c: 5 },
    PatchEmbed { b: 1, channels: 3, h: 28, w: 42, p: 14, c: 19 },
    PatchEmbed { b: 2, channels: 3, h: 64, w: 32, p: 16, c: 48 },
];

fn lengths(s: &PatchEmbed) -> (usize, usize, usize) {
    let (gh, gw) = s.grid().unwrap();
    (s.b * s.channels * s.h * s.w, s.c * s.channels * s.p * s.p, s.b * gh * gw * s.c)
}

#[test]
fn gradient_matches_central_differences() {
    let s = SHAPES[1];
    let (x, w, y) = lengths(&s);
    let inputs = [noise::<f64>(x, 1), noise(w, 2), noise(s.c, 3)];
    let dy = noise(y, 4);
    let mut grads = [vec![f64::NAN; x], vec![0.0; w], vec![0.0; s.c]];
    let [dx, dw, db] = &mut grads;
    s.backward(Some(&inputs[0]), &inputs[1], &dy, Some(dx), Some(dw), Some(db)).unwrap();
    central_differences("patch_embed", &inputs, &grads, |inputs| {
        let mut out = vec![0.0; y];
        s.forward(&inputs[0], &inputs[1], Some(&inputs[2]), &mut out).unwrap();
        weighted_sum(&out, &dy)
    });
}

#[test]
fn fast_form_matches_reference() {
    for s in SHAPES {
        let (nx, nw, ny) = lengths(&s);
        let (x, w) = (noise::<f32>(nx, 1), noise::<f32>(nw, 2));
        let (bias, dy) = (noise::<f32>(s.c, 3), noise::<f32>(ny, 4));
        for bias in [None, Some(&bias[..])] {
            let (mut y, mut want) = (vec![f32::NAN; ny], vec![0.0; ny]);
            s.forward(&x, &w, bias, &mut y).unwrap();
            reference::forward(&s, &x, &w, bias, &mut want).unwrap();
            assert_close(&format!("y of {s:?}"), &y, &want, 5e-6);
        }
        let start = || (vec![f32::NAN; nx], noise::<f32>(nw, 5), noise::<f32>(s.c, 6));
        let (mut got, mut want) = (start(), start());
        let (dx, dw, db) = (&mut got.0, &mut got.1, &mut got.2);
        s.backward(Some(&x), &w, &dy, Some(dx), Some(dw), Some(db)).unwrap();
        reference::backward(&s, &x, &w, &dy, &mut want.0, &mut want.1, &mut want.2).unwrap();
        assert_close(&format!("dx of {s:?}"), &got.0, &want.0, 5e-6);
        assert_close(&format!("dweight of {s:?}"), &got.1, &want.1, 5e-6);
        assert_close(&format!("dbias of {s:?}"), &got.2, &want.2, 5e-6);
    }
}

#[test]
fn the_bias_alone_needs_no_image() {
    let s = SHAPES[1];
    let (_, w, y) = lengths(&s);
    let (weight, dy) = (noise::<f32>(w, 1), noise::<f32>(y, 2));
    let mut db = vec![0.0; s.c];
    s.backward(None, &weight, &dy, None, None, Some(&mut db)).unwrap();
    let want: f32 = dy.iter().step_by(s.c).sum();
    assert!((db[0] - want).abs() < 1e-5);
    let error = s.backward(None, &weight, &dy, None, Some(&mut vec![0.0; w]), None);
    assert!(error.is_err());
}

#[test]
fn wrong_arguments_are_named() {
    let s = PatchEmbed { h: 65, ..SHAPES[3] };
    assert_eq!(
        s.grid().unwrap_err().to_string(),
        "patch_embed: an image of 65 x 32 pixels does not divide into patches of 16 x 16"
    );
}
