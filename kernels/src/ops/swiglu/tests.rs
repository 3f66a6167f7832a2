use super::{Swiglu, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

#[test]
fn gradient_matches_central_differences() {
    let s = Swiglu { n: 3, h: 5 };
    let inputs = [noise::<f64>(30, 1)];
    let dy = noise(15, 2);
    let mut grads = [vec![0.0; 30]];
    s.backward(&inputs[0], &dy, &mut grads[0]).unwrap();
    central_differences("swiglu", &inputs, &grads, |x| {
        let mut y = vec![0.0; 15];
        s.forward(&x[0], &mut y).unwrap();
        weighted_sum(&y, &dy)
    });
}

#[test]
fn fast_form_matches_reference() {
    for (n, h) in [(1, 1), (7, 13), (65, 4096)] {
        let s = Swiglu { n, h };
        let x: Vec<f32> = noise::<f32>(2 * n * h, 1).iter().map(|v| v * 20.0).collect();
        let dy = noise::<f32>(n * h, 2);
        let (mut y, mut y0) = (vec![0.0; n * h], vec![0.0; n * h]);
        cpu::forward(&s, &x, &mut y);
        reference::forward(&s, &x, &mut y0);
        assert_close("y", &y, &y0, 1e-6);
        let (mut dx, mut dx0) = (vec![0.0; 2 * n * h], vec![0.0; 2 * n * h]);
        cpu::backward(&s, &x, &dy, &mut dx);
        reference::backward(&s, &x, &dy, &mut dx0);
        assert_close("dx", &dx, &dx0, 1e-6);
    }
}
