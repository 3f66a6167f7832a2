use super::{Conv2d, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

const fn sizes(
    [b, h, w]: [usize; 3],
    [ci, co]: [usize; 2],
    [kh, kw]: [usize; 2],
    [stride, pad]: [usize; 2],
) -> Conv2d {
    Conv2d { b, h, w, ci, co, kh, kw, stride, pad }
}

/// One pixel, 1 x 1, the 3 x 3 of the pixel decoder over several blocks. Strides with a remainder,
/// a kernel that is not square, padding wider than the kernel, no padding.
const SHAPES: [Conv2d; 9] = [
    sizes([1, 1, 1], [1, 1], [1, 1], [1, 0]),
    sizes([2, 5, 7], [3, 4], [1, 1], [1, 0]),
    sizes([1, 1, 1], [2, 3], [3, 3], [1, 1]),
    sizes([2, 5, 7], [3, 4], [3, 3], [1, 1]),
    sizes([1, 8, 6], [5, 2], [3, 3], [2, 1]),
    sizes([2, 9, 7], [2, 3], [2, 4], [3, 0]),
    sizes([1, 3, 4], [2, 2], [2, 2], [1, 2]),
    sizes([1, 6, 5], [1, 2], [1, 1], [2, 0]),
    sizes([2, 23, 31], [80, 17], [3, 3], [1, 1]),
];

fn lengths(s: &Conv2d) -> (usize, usize, usize) {
    let (ho, wo) = s.output().unwrap();
    (s.b * s.h * s.w * s.ci, s.co * s.ci * s.kh * s.kw, s.b * ho * wo * s.co)
}

#[test]
fn gradient_matches_central_differences() {
    for s in [SHAPES[1], SHAPES[3], SHAPES[4], SHAPES[5], SHAPES[6], SHAPES[7]] {
        let (x, w, y) = lengths(&s);
        let inputs = [noise::<f64>(x, 1), noise(w, 2), noise(s.co, 3)];
        let dy = noise(y, 4);
        let mut grads = [vec![f64::NAN; x], vec![0.0; w], vec![0.0; s.co]];
        let [dx, dw, db] = &mut grads;
        s.backward(Some(&inputs[0]), &inputs[1], &dy, Some(dx), Some(dw), Some(db)).unwrap();
        central_differences("conv2d", &inputs, &grads, |inputs| {
            let mut out = vec![0.0; y];
            s.forward(&inputs[0], &inputs[1], Some(&inputs[2]), &mut out).unwrap();
            weighted_sum(&out, &dy)
        });
    }
}

#[test]
fn fast_form_matches_reference() {
    for s in SHAPES {
        let (nx, nw, ny) = lengths(&s);
        let (x, w) = (noise::<f32>(nx, 1), noise::<f32>(nw, 2));
        let (bias, dy) = (noise::<f32>(s.co, 3), noise::<f32>(ny, 4));
        for bias in [None, Some(&bias[..])] {
            let (mut y, mut want) = (vec![f32::NAN; ny], vec![0.0; ny]);
            s.forward(&x, &w, bias, &mut y).unwrap();
            reference::forward(&s, &x, &w, bias, &mut want).unwrap();
            assert_close(&format!("y of {s:?}"), &y, &want, 5e-6);
        }
        let start = || (vec![f32::NAN; nx], noise::<f32>(nw, 5), noise::<f32>(s.co, 6));
        let (mut got, mut want) = (start(), start());
        let (dx, dw, db) = (&mut got.0, &mut got.1, &mut got.2);
        s.backward(Some(&x), &w, &dy, Some(dx), Some(dw), Some(db)).unwrap();
        reference::backward(&s, &x, &w, &dy, &mut want.0, &mut want.1, &mut want.2).unwrap();
        assert_close(&format!("dx of {s:?}"), &got.0, &want.0, 5e-6);
        assert_close(&format!("dweight of {s:?}"), &got.1, &want.1, 1e-5);
        assert_close(&format!("dbias of {s:?}"), &got.2, &want.2, 1e-5);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = sizes([1, 40, 50], [96, 33], [3, 3], [1, 1]);
    let (nx, nw, ny) = lengths(&s);
    let (x, w, dy) = (noise::<f32>(nx, 1), noise::<f32>(nw, 2), noise::<f32>(ny, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut y, mut dx, mut dw) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nw]);
        pool.install(|| {
            s.forward(&x, &w, None, &mut y).unwrap();
            s.backward(Some(&x), &w, &dy, Some(&mut dx), Some(&mut dw), None).unwrap();
        });
        (y, dx, dw)
    };
    assert!(run(1) == run(3));
}

#[test]
fn wrong_arguments_are_named() {
    let s = sizes([1, 2, 2], [1, 1], [5, 3], [1, 1]);
    let message = "conv2d: a 5 x 3 kernel with stride 1 does not fit a 2 x 2 map padded by 1";
    assert_eq!(s.output().unwrap_err().to_string(), message);
    let s = sizes([1, 2, 2], [1, 1], [3, 3], [1, 1]);
    let error = s.forward(&[0.0f32; 4], &[0.0; 8], None, &mut [0.0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "conv2d: weight has 8 elements, its sizes require 9");
    assert!(sizes([1, 2, 2], [1, 1], [1, 1], [0, 0]).output().is_err());
}
