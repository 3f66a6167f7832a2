use super::{Forward, LayerNorm, Stats};
use crate::call::{Call, Host};
use crate::check::noise;

#[test]
fn statistics_alone_are_those_of_the_forward_pass() {
    for (n, c) in [(1, 1), (7, 13), (3, 48), (257, 384)] {
        let s = LayerNorm { n, c, eps: 1e-6 };
        let x: Vec<f32> = noise::<f32>(n * c, 1).iter().map(|v| v + 100.0).collect();
        let (weight, bias) = (&noise(c, 2)[..], &noise(c, 3)[..]);
        let (mut y, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
        let (y, m, r) = (&mut y[..], &mut mean[..], &mut rstd[..]);
        Forward::<Host, _> { x: &x, weight, bias, y, mean: m, rstd: r }.run(&s).unwrap();
        let (mut m, mut r) = (vec![0.0; n], vec![0.0; n]);
        Stats::<Host, _> { x: &x, mean: &mut m, rstd: &mut r }.run(&s).unwrap();
        assert_eq!((m, r), (mean, rstd));
    }
}
