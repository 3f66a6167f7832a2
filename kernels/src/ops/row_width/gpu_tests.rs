use super::RowWidth;
use crate::check::{assert_close, noise};

#[test]
fn backward_is_the_transposed_map() {
    // <y, run(x)> = <backward(y), x> for any x and y.
    let s = RowWidth::new(6, 5, 8).scaled(1, 3, 1.5);
    for s in [s, s.backward()] {
        let (x, y) = (noise::<f64>(s.n * s.from, 1), noise::<f64>(s.n * s.to, 2));
        let (mut there, mut back) = (vec![0.0; y.len()], vec![0.0; x.len()]);
        s.run(&x, &mut there).unwrap();
        s.backward().run(&y, &mut back).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert_close("product", &[dot(&y, &there)], &[dot(&back, &x)], 1e-14);
    }
}

#[test]
fn bad_arguments_are_named() {
    let s = RowWidth { period: 0, ..RowWidth::new(1, 2, 3) };
    let error = s.run(&[0.0f32; 2], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "row_width: a period of no rows");
    let error = RowWidth::new(1, 2, 3).run(&[0.0f32; 2], &mut [0.0; 2]).unwrap_err();
    assert_eq!(error.to_string(), "row_width: y has 2 elements, its sizes require 3");
}
