use super::{ParameterGradients, PatchEmbed};
use crate::call::{Call, Host};
use crate::check::noise;

#[test]
fn the_bias_alone_needs_no_image() {
    let s = PatchEmbed { b: 2, channels: 3, h: 6, w: 9, p: 3, c: 5 };
    let dy = &noise::<f32>(12 * s.c, 2)[..];
    let mut db = vec![0.0; s.c];
    let c = ParameterGradients::<Host, _> { x: None, dy, dweight: None, dbias: Some(&mut db) };
    c.run(&s).unwrap();
    let want: f32 = dy.iter().step_by(s.c).sum();
    assert!((db[0] - want).abs() < 1e-5);
    let mut dw = vec![0.0; 27 * s.c];
    let c = ParameterGradients::<Host, _> { x: None, dy, dweight: Some(&mut dw), dbias: None };
    assert!(c.run(&s).is_err());
}

#[test]
fn an_image_that_does_not_divide_is_named() {
    let s = PatchEmbed { b: 2, channels: 3, h: 65, w: 32, p: 16, c: 48 };
    assert_eq!(
        s.grid().unwrap_err().to_string(),
        "patch_embed: an image of 65 x 32 pixels does not divide into patches of 16 x 16"
    );
}
