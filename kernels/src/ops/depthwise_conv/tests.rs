use super::{Backward, DepthwiseConv, Forward, ParameterGradients};
use crate::call::{Call, Host};
use crate::check::noise;

#[test]
fn bits_do_not_depend_on_threads() {
    let s = DepthwiseConv { b: 2, h: 40, w: 19, c: 50, k: 7, pad: 3 };
    let [nx, nw, ny] = s.lengths();
    let (x, w, dy) = (noise::<f32>(nx, 1), noise::<f32>(nw, 2), noise::<f32>(ny, 3));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut y, mut dx, mut dw) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nw]);
        let mut db = vec![0.0; s.c];
        pool.install(|| {
            let (x, dy, weight) = (&x[..], &dy[..], &w[..]);
            Forward::<Host, f32> { x, weight, bias: None, y: &mut y }.run(&s).unwrap();
            Backward::<Host, f32> { weight, dy, dx: &mut dx }.run(&s).unwrap();
            let (x, dweight, dbias) = (Some(x), Some(&mut dw[..]), Some(&mut db[..]));
            ParameterGradients::<Host, f32> { x, dy, dweight, dbias }.run(&s).unwrap();
        });
        (y, dx, dw, db)
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_kernel_that_does_not_fit_is_named() {
    let s = DepthwiseConv { b: 1, h: 2, w: 3, c: 1, k: 7, pad: 1 };
    let message = "depthwise_conv: a 7 x 7 kernel does not fit a 2 x 3 map padded by 1";
    assert_eq!(s.output().unwrap_err().to_string(), message);
}
