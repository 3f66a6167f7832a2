use super::{Resize, RowWidth};
use crate::call::{Call, Host};
use crate::check::{assert_close, noise};

#[test]
fn backward_is_the_transposed_map() {
    // <y, run(x)> = <backward(y), x> for any x and y.
    let s = RowWidth::new(6, 5, 8).scaled(1, 3, 1.5);
    for s in [s, s.backward()] {
        let (x, y) = (noise::<f64>(s.n * s.from, 1), noise::<f64>(s.n * s.to, 2));
        let (mut there, mut back) = (vec![0.0; y.len()], vec![0.0; x.len()]);
        Resize::<Host, _> { x: &x, y: &mut there }.run(&s).unwrap();
        Resize::<Host, _> { x: &y, y: &mut back }.run(&s.backward()).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert_close("product", &[dot(&y, &there)], &[dot(&back, &x)], 1e-14);
    }
}

#[test]
fn no_period_is_refused() {
    let s = RowWidth { period: 0, ..RowWidth::new(1, 2, 3) };
    let error = Resize::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "row_width: a period of no rows");
}
