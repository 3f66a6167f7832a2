//! Sizes of zero: an operation returns nothing, or an error that there is nothing to work on.

use dressage_kernels::ops::linear::Linear;

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
