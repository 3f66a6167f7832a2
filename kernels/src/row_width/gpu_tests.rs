use half::bf16;

use super::RowWidth;
use crate::check::{assert_close, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(s: RowWidth) {
    let device = Device::virtual_gpu();
    let (x, exact) = stored::<T>(&noise(s.n * s.from, 1));
    let run = || {
        let x = device.upload("x", &x).unwrap();
        let mut y = device.alloc("y", s.n * s.to).unwrap();
        s.run_gpu(&device, x.view(), y.view_mut()).unwrap();
        device.download(y.view()).unwrap()
    };
    let got = run();
    assert_eq!(got, run());
    let mut want = vec![0.0f64; s.n * s.to];
    s.run(&exact, &mut want).unwrap();
    // One product, rounded once; without a factor the very values.
    let want: Vec<T> = want.iter().map(|&y| T::of(y as f32)).collect();
    assert_eq!(got, want, "row_width{} {s:?}", T::SUFFIX);
    println!("row_width{} {s:?}: the rounded values", T::SUFFIX);
}

#[test]
fn kernel_gives_the_rounded_values_of_the_reference() {
    for s in [
        RowWidth::new(1, 1, 1),
        RowWidth::new(7, 13, 32).scaled(2, 6, 2.0),
        RowWidth::new(96, 32, 13),
        RowWidth::new(50, 48, 64).scaled(1, 1, 0.5),
        RowWidth::new(3, 5, 0),
        RowWidth::new(4, 0, 3),
    ] {
        check::<f32>(s);
        check::<bf16>(s);
    }
}

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
    assert_eq!(error.to_string(), "row_width: y has 2 elements, its sizes ask for 3");
}
