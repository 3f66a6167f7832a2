use super::{ClassLoss, Forward};
use crate::call::{Call, Host};

#[test]
fn golden_number() {
    let s = ClassLoss { n: 3, k: 3, weight: 2.0 };
    let x = [1.0f32, 0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
    let (targets, class_weights) = (&[0, 1, 2], &[1.0, 1.0, 0.1]);
    let (mut loss, mut scale) = ([f32::NAN], [f32::NAN]);
    let (loss_out, scale) = (&mut loss, &mut scale);
    let call =
        Forward::<Host, _> { x: &x, targets, class_weights, divisor: None, loss: loss_out, scale };
    call.run(&s).unwrap();
    assert!((loss[0] - 0.7210).abs() < 6e-5, "{loss:?}");
}

#[test]
fn bad_targets_are_named() {
    let s = ClassLoss { n: 1, k: 2, weight: 2.0 };
    for y in [-1, 2] {
        let error = s.check_targets(&[0, y]).unwrap_err();
        assert_eq!(error.to_string(), format!("class_loss: target {y} is not one of 2 classes"));
    }
    s.check_targets(&[1, 0]).unwrap();
}
