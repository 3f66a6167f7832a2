//! Sizes of zero: an operation returns nothing, or an error that there is nothing to work on.

use dressage_kernels::ops::group_norm::GroupNorm;
use dressage_kernels::ops::layer_norm::{LayerNorm, Stats};
use dressage_kernels::ops::linear::Linear;
use dressage_kernels::ops::swiglu::Swiglu;
use dressage_kernels::{KernelError, Real, Write};

/// Rows without channels have no mean.
fn refused(op: &str, result: Result<(), KernelError>) {
    let error = result.expect_err(op).to_string();
    assert!(error.starts_with(op) && error.contains('0'), "{error}");
}

fn norms<T: Real>() {
    let two = [T::ZERO; 2];
    let s = LayerNorm { n: 2, c: 0, eps: 1e-6 };
    refused("layer_norm", s.forward(&[], &[], &[], &mut [], &mut two.clone(), &mut two.clone()));
    refused("layer_norm", s.stats(&[], &mut two.clone(), &mut two.clone()));
    let stats = Stats { mean: &two[..], rstd: &two };
    let into = Some((&mut [][..], Write::Over));
    refused("layer_norm", s.backward(&[], &[], stats, &[], into, None, None));
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
fn no_rows_and_no_width_give_nothing() {
    LayerNorm { n: 0, c: 3, eps: 1e-6 }
        .forward(&[], &[1.0f32; 3], &[0.0; 3], &mut [], &mut [], &mut [])
        .expect("no rows");
    let s = Swiglu { n: 2, h: 0 };
    s.forward::<f32>(&[], &mut []).expect("no width");
    s.backward::<f32>(&[], &[], &mut []).expect("no width");
    s.forward::<f64>(&[], &mut []).expect("no width");
    s.backward::<f64>(&[], &[], &mut []).expect("no width");
    // Without inputs a layer returns its bias.
    let mut y = [7.0f32; 6];
    let s = Linear { n: 2, m: 3, k: 0 };
    s.forward(&[], &[], Some(&[1.0, 2.0, 3.0]), &mut y).expect("no inputs");
    assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    s.forward(&[], &[], None, &mut y).expect("no inputs");
    assert_eq!(y, [0.0; 6]);
}
