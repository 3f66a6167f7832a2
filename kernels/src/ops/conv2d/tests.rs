use super::{Backward, Conv2d, Forward, ParameterGradients};
use crate::call::{Call, Host};
use crate::check::noise;

const fn sizes(
    [b, h, w]: [usize; 3],
    [ci, co]: [usize; 2],
    [kh, kw]: [usize; 2],
    [stride, pad]: [usize; 2],
) -> Conv2d {
    Conv2d { b, h, w, ci, co, kh, kw, stride, pad, dilation: 1 }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = sizes([1, 40, 50], [96, 33], [3, 3], [1, 1]);
    let [nx, nw, ny] = s.lengths();
    let (x, w, dy) = (noise::<f32>(nx, 1), noise::<f32>(nw, 2), noise::<f32>(ny, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut y, mut dx, mut dw) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nw]);
        pool.install(|| {
            let (x, dy, weight) = (&x[..], &dy[..], &w[..]);
            Forward::<Host, f32> { x, weight, bias: None, y: &mut y }.run(&s).unwrap();
            Backward::<Host, f32> { weight, dy, dx: &mut dx }.run(&s).unwrap();
            let (x, dweight) = (Some(x), Some(&mut dw[..]));
            let call = ParameterGradients::<Host, f32> { x, dy, dweight, dbias: None };
            call.run(&s).unwrap();
        });
        (y, dx, dw)
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_kernel_that_does_not_fit_is_named() {
    let s = sizes([1, 2, 2], [1, 1], [5, 3], [1, 1]);
    let message = "conv2d: a 5 x 3 kernel with stride 1 does not fit a 2 x 2 map padded by 1";
    assert_eq!(s.output().unwrap_err().to_string(), message);
    let s = Conv2d { dilation: 3, ..sizes([1, 2, 8], [1, 1], [3, 3], [1, 1]) };
    let message = "conv2d: a 3 x 3 kernel with stride 1 and dilation 3 does not fit a 2 x 8 map \
                   padded by 1";
    assert_eq!(s.output().unwrap_err().to_string(), message);
}
