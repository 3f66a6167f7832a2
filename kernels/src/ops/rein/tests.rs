use super::{Backward, Forward, Rein};
use crate::call::{Call, Host};
use crate::check::{assert_close, noise};

/// No multiple of a block or vector, and DINOv2-S at its real size.
const SIZES: [Rein; 2] = [
    Rein { b: 2, skip: 5, n: 67, c: 37, m: 13, softmax: true },
    Rein { b: 1, skip: 1, n: 1024, c: 384, m: 100, softmax: true },
];

/// f, tokens, values, weight, bias, scale, dout.
fn inputs(s: &Rein) -> [Vec<f32>; 7] {
    let ([features, values], c) = (s.lengths(), s.c);
    let weight = noise::<f32>(c * c, 4).iter().map(|&w| w / (c as f32).sqrt()).collect();
    // Tokens of this magnitude make the softmax uneven, so that a lost column would be detected.
    let tokens = noise::<f32>(s.m * c, 2).iter().map(|&t| t * 3.0).collect();
    let (f, dout) = (noise(features, 1), noise(features, 7));
    [f, tokens, noise(values, 3), weight, noise(c, 5), vec![0.7], dout]
}

/// `out` and `lse` of a form.
fn forward(
    s: &Rein,
    [f, tokens, values, weight, bias, scale, _]: &[Vec<f32>; 7],
    form: impl FnOnce(&Rein, Forward<'_, Host, f32>),
) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut lse) = (vec![f32::NAN; f.len()], vec![f32::NAN; s.b * s.n]);
    let (o, l) = (&mut out[..], &mut lse[..]);
    form(s, Forward { f, tokens, values, weight, bias, scale, out: o, lse: l });
    (out, lse)
}

/// The wanted gradients of a form; `df` must be overwritten, the others added to.
fn backward(
    s: &Rein,
    x: &[Vec<f32>; 7],
    lse: &[f32],
    wanted: [bool; 6],
    form: impl FnOnce(&Rein, Backward<'_, Host, f32>),
) -> [Vec<f32>; 6] {
    let [f, tokens, values, weight, bias, scale, dout] = x;
    let old = [f32::NAN, 0.0, 0.0, 0.25, 0.0, 0.0];
    let mut d = std::array::from_fn(|i| vec![old[i]; x[i].len()]);
    let mut wanted = wanted.into_iter();
    let [df, dtokens, dvalues, dweight, dbias, dscale] =
        d.each_mut().map(|d: &mut Vec<f32>| wanted.next().unwrap().then_some(&mut d[..]));
    form(
        s,
        Backward {
            f,
            tokens,
            values,
            weight,
            bias,
            scale,
            lse,
            dout,
            df,
            dtokens,
            dvalues,
            dweight,
            dbias,
            dscale,
        },
    );
    d
}

#[test]
fn fast_form_matches_reference() {
    let s = &SIZES[1];
    let x = inputs(s);
    let (out, lse) = forward(s, &x, Forward::<Host, f32>::fast);
    let (out0, lse0) = forward(s, &x, Forward::<Host, f32>::reference);
    // Scores are sums of c products, and weights their exponentials.
    assert_close("out", &out, &out0, 2e-5);
    assert_close("lse", &lse, &lse0, 1e-5);
    let fast = Backward::<Host, f32>::fast;
    let all = backward(s, &x, &lse0, [true; 6], fast);
    let want = backward(s, &x, &lse0, [true; 6], Backward::<Host, f32>::reference);
    for (i, name) in ["df", "dT", "dV", "dW_f", "db_f", "ds"].into_iter().enumerate() {
        assert_close(name, &all[i], &want[i], 1e-4);
        let mut only = [false; 6];
        only[i] = true;
        let alone = backward(s, &x, &lse0, only, fast);
        assert_eq!(alone[i], all[i], "{name} depends on which gradients are wanted");
    }
}

#[test]
fn skipped_rows_pass_unchanged() {
    let s = &SIZES[0];
    let x = inputs(s);
    let (out, lse) = forward(s, &x, Forward::<Host, f32>::fast);
    let only = [true, false, false, false, false, false];
    let d = backward(s, &x, &lse, only, Backward::<Host, f32>::fast);
    let image = (s.skip + s.n) * s.c;
    for i in 0..s.b {
        let rows = i * image..i * image + s.skip * s.c;
        assert_eq!(out[rows.clone()], x[0][rows.clone()]);
        assert_eq!(d[0][rows.clone()], x[6][rows]);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = &SIZES[0];
    let x = inputs(s);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (out, lse) = forward(s, &x, Forward::<Host, f32>::fast);
            let d = backward(s, &x, &lse, [true; 6], Backward::<Host, f32>::fast);
            (out, lse, d)
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}
