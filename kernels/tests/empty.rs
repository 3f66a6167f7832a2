//! Sizes of zero: an operation returns nothing, or an error that there is nothing to work on.

use dressage_kernels::ops::group_norm::GroupNorm;
use dressage_kernels::ops::linear::Linear;
use dressage_kernels::{KernelError, Real};

/// Rows without channels have no mean.
fn refused(op: &str, result: Result<(), KernelError>) {
    let error = result.expect_err(op).to_string();
    assert!(error.starts_with(op) && error.contains('0'), "{error}");
}

fn norms<T: Real>() {
    let two = [T::ZERO; 2];
    for (hw, c) in [(0, 4), (3, 0)] {
        let s = GroupNorm { b: 1, hw, c, groups: 2, eps: 1e-5 };
        let (weight, mut mean, mut rstd) = (vec![T::ONE; c], two, two);
        let done = s.forward(&[], &weight, &weight, &mut [], &mut mean, &mut rstd);
        refused("group_norm", done);
    }
}

#[test]
fn norms_of_nothing_are_refused() {
    norms::<f32>();
    norms::<f64>();
}

#[test]
fn no_width_gives_the_bias() {
    // Without inputs a layer returns its bias.
    let mut y = [7.0f32; 6];
    let s = Linear { n: 2, m: 3, k: 0 };
    s.forward(&[], &[], Some(&[1.0, 2.0, 3.0]), &mut y).expect("no inputs");
    assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    s.forward(&[], &[], None, &mut y).expect("no inputs");
    assert_eq!(y, [0.0; 6]);
}
