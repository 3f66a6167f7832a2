use half::bf16;

use super::TokenLink;
use crate::check::{UNIT, assert_within, noise, stored};
use crate::device::{Device, Float};

fn check<T: Float>(layers: usize, m: usize, c: usize) {
    let device = Device::virtual_gpu();
    let s = TokenLink { layers, m, c };
    let mut q = noise::<f32>(layers * m * c, 1);
    if layers > 2 {
        // A tie between the first and the third layer: the first one takes the gradient.
        q[0] = 3.0;
        q[2 * m * c] = 3.0;
    }
    let (q, exact_q) = stored::<T>(&q);
    let (dout, exact_dout) = stored::<T>(&noise(3 * m * c, 2));
    let run = || {
        let (q, dout) = (device.upload("q", &q).unwrap(), device.upload("dout", &dout).unwrap());
        let mut out = device.alloc("out", 3 * m * c).unwrap();
        let mut dq = device.alloc("dq", layers * m * c).unwrap();
        s.forward_gpu(&device, q.view(), out.view_mut()).unwrap();
        s.backward_gpu(&device, q.view(), dout.view(), dq.view_mut()).unwrap();
        (device.download(out.view()).unwrap(), device.download(dq.view()).unwrap())
    };
    let got = run();
    assert_eq!(got, run());
    let (mut out, mut dq) = (vec![0.0; 3 * m * c], vec![0.0; layers * m * c]);
    s.forward(&exact_q, &mut out).unwrap();
    s.backward(&exact_q, &exact_dout, &mut dq).unwrap();
    let what = format!("token_link{} [{layers}, {m}, {c}]", T::SUFFIX);
    // Sums of one value a layer, each below 3, and a quotient; sums of three gradients below 1.
    let depth = layers as f64 + 1.0;
    assert_within(&format!("{what}, forward"), &got.0, &out, |_| depth * UNIT * 3.0);
    assert_within(&format!("{what}, backward"), &got.1, &dq, |_| 3.0 * UNIT * 3.0);
}

#[test]
fn kernels_match_the_reference() {
    for (layers, m, c) in [(1, 1, 1), (3, 7, 13), (24, 10, 32)] {
        check::<f32>(layers, m, c);
        check::<bf16>(layers, m, c);
    }
}
