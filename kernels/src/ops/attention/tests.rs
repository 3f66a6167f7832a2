use super::{Attention, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};

/// One, primes, no multiples of the vector width, the head width of SAM, shapes of the mask decoder
/// and DINOv2.
const SHAPES: [Attention; 7] = [
    Attention { b: 1, heads: 1, d: 1, nq: 1, nk: 1 },
    Attention { b: 2, heads: 3, d: 5, nq: 7, nk: 13 },
    Attention { b: 1, heads: 2, d: 80, nq: 65, nk: 130 },
    Attention { b: 1, heads: 2, d: 32, nq: 100, nk: 256 },
    Attention { b: 2, heads: 1, d: 16, nq: 3, nk: 9000 },
    Attention { b: 1, heads: 2, d: 64, nq: 257, nk: 257 },
    Attention { b: 1, heads: 1, d: 64, nq: 1025, nk: 1025 },
];

/// q, k, v, dout; scores reach tens, so that the maximum must be subtracted.
fn inputs<T: crate::Real>(s: &Attention) -> [Vec<T>; 4] {
    let c = s.heads * s.d;
    let n = [s.nq, s.nk, s.nk, s.nq].map(|n| s.b * n * c);
    let big = |x: Vec<T>| x.into_iter().map(|v| v * T::of(4.0)).collect();
    [big(noise(n[0], 1)), big(noise(n[1], 2)), noise(n[2], 3), noise(n[3], 4)]
}

/// Mask with a third of the keys blocked; every query keeps key 0, except row `whole`, which is
/// blocked completely.
fn mask(s: &Attention, whole: Option<usize>) -> Vec<u8> {
    let draw = noise::<f64>(s.b * s.nq * s.nk, 5);
    let open = |k: usize| k.is_multiple_of(s.nk) || draw[k] > -0.33;
    (0..draw.len()).map(|k| u8::from(whole == Some(k / s.nk) || !open(k))).collect()
}

fn interleave<T: crate::Real>(s: &Attention, parts: [&[T]; 3]) -> Vec<T> {
    let c = s.heads * s.d;
    (0..s.b * s.nq).flat_map(|t| parts.map(|p| p[t * c..(t + 1) * c].to_vec())).flatten().collect()
}

#[test]
fn gradient_matches_central_differences() {
    for s in &SHAPES[..2] {
        let [q, k, v, dout] = inputs::<f64>(s);
        let blocked = mask(s, (s.nq > 2).then_some(2));
        for blocked in [None, Some(&blocked[..])] {
            let run = |x: &[Vec<f64>]| {
                let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; s.b * s.heads * s.nq]);
                s.forward(&x[0], &x[1], &x[2], blocked, &mut out, &mut lse).unwrap();
                (out, lse)
            };
            let x = [q.clone(), k.clone(), v.clone()];
            let lse = run(&x).1;
            let mut grads = [0, 1, 2].map(|i| vec![f64::NAN; x[i].len()]);
            let [dq, dk, dv] = &mut grads;
            let (dq, dk, dv) = (Some(&mut dq[..]), Some(&mut dk[..]), Some(&mut dv[..]));
            s.backward(&x[0], &x[1], &x[2], blocked, &lse, &dout, dq, dk, dv).unwrap();
            central_differences("attention", &x, &grads, |x| weighted_sum(&run(x).0, &dout));
        }
    }
}

#[test]
fn packed_form_is_the_separate_form() {
    let s = Attention { b: 2, heads: 3, d: 5, nq: 9, nk: 9 };
    let [q, k, v, dout] = inputs::<f64>(&s);
    let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; 54]);
    s.forward(&q, &k, &v, None, &mut out, &mut lse).unwrap();
    let mut d = [0, 1, 2].map(|_| vec![f64::NAN; q.len()]);
    let [dq, dk, dv] = &mut d;
    s.backward(&q, &k, &v, None, &lse, &dout, Some(dq), Some(dk), Some(dv)).unwrap();
    let qkv = interleave(&s, [&q, &k, &v]);
    let (mut out_p, mut lse_p, mut dqkv) = (out.clone(), lse.clone(), vec![f64::NAN; qkv.len()]);
    s.forward_packed(&qkv, &mut out_p, &mut lse_p).unwrap();
    s.backward_packed(&qkv, &lse, &dout, &mut dqkv).unwrap();
    assert_eq!((out_p, lse_p), (out, lse));
    assert_eq!(dqkv, interleave(&s, [&d[0], &d[1], &d[2]]));
}

#[test]
fn fast_form_matches_reference() {
    for s in &SHAPES {
        let [q, k, v, dout] = inputs::<f32>(s);
        let blocked = mask(s, (s.nq > 2).then_some(2));
        for blocked in [None, Some(&blocked[..])] {
            let x = s.separate(&q, &k, &v, blocked).unwrap();
            let fresh = || (vec![f32::NAN; dout.len()], vec![f32::NAN; s.b * s.heads * s.nq]);
            let ((mut out, mut lse), (mut out0, mut lse0)) = (fresh(), fresh());
            cpu::forward(s, x, &mut out, &mut lse);
            reference::forward(s, x, &mut out0, &mut lse0);
            // A score of 30 has a rounding error of 2e-6, which the exponential turns into a
            // relative error.
            assert_close("out", &out, &out0, 2e-5);
            let finite = |x: &[f32]| x.iter().map(|v| v.min(1e4)).collect::<Vec<f32>>();
            assert_close("lse", &finite(&lse), &finite(&lse0), 1e-6);
            let fresh = || [&q, &k, &v].map(|x| vec![f32::NAN; x.len()]);
            let (mut fast, mut slow) = (fresh(), fresh());
            cpu::backward(s, x, &lse0, &dout, fast.each_mut().map(|d| Some(&mut d[..])));
            reference::backward(
                s,
                x,
                &lse0,
                &dout,
                slow.each_mut().map(|d| Some(&mut d[..])),
                None,
            );
            for (i, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
                assert_close(name, &fast[i], &slow[i], 5e-5);
            }
            for part in 0..3 {
                let mut alone = fresh();
                let mut i = 0;
                let wanted = alone.each_mut().map(|d| {
                    i += 1;
                    (i == part + 1).then_some(&mut d[..])
                });
                cpu::backward(s, x, &lse0, &dout, wanted);
                assert_eq!(alone[part], fast[part], "part {part} depends on which are wanted");
            }
        }
    }
}

#[test]
fn fast_packed_form_is_the_fast_separate_form() {
    for s in SHAPES.iter().filter(|s| s.nq == s.nk) {
        let [q, k, v, dout] = inputs::<f32>(s);
        let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; s.b * s.heads * s.nq]);
        s.forward(&q, &k, &v, None, &mut out, &mut lse).unwrap();
        let mut d = [0, 1, 2].map(|_| vec![f32::NAN; q.len()]);
        let [dq, dk, dv] = &mut d;
        s.backward(&q, &k, &v, None, &lse, &dout, Some(dq), Some(dk), Some(dv)).unwrap();
        let qkv = interleave(s, [&q, &k, &v]);
        let (mut out_p, mut lse_p) = (vec![0.0; out.len()], vec![0.0; lse.len()]);
        let mut dqkv = vec![f32::NAN; qkv.len()];
        s.forward_packed(&qkv, &mut out_p, &mut lse_p).unwrap();
        s.backward_packed(&qkv, &lse, &dout, &mut dqkv).unwrap();
        assert_eq!((out_p, lse_p), (out, lse));
        assert_eq!(dqkv, interleave(s, [&d[0], &d[1], &d[2]]));
    }
}

/// qkv, rel, dout; relative positions reach tens, like the scores.
fn relative_inputs<T: crate::Real>(s: &Attention, [h, w]: [usize; 2]) -> [Vec<T>; 3] {
    let [q, k, v, dout] = inputs::<T>(s);
    let rel = noise::<T>(s.b * s.heads * s.nq * (h + w), 6);
    let rel = rel.into_iter().map(|x| x * T::of(4.0)).collect();
    [interleave(s, [&q, &k, &v]), rel, dout]
}

const GRIDS: [(Attention, [usize; 2]); 4] = [
    (Attention { b: 2, heads: 2, d: 3, nq: 6, nk: 6 }, [3, 2]),
    (Attention { b: 1, heads: 1, d: 2, nq: 5, nk: 5 }, [1, 5]),
    (Attention { b: 1, heads: 2, d: 80, nq: 196, nk: 196 }, [14, 14]),
    (Attention { b: 2, heads: 1, d: 16, nq: 407, nk: 407 }, [37, 11]),
];

#[test]
fn gradient_of_relative_positions_matches_central_differences() {
    for (s, grid) in &GRIDS[..2] {
        let [qkv, rel, dout] = relative_inputs::<f64>(s, *grid);
        let run = |x: &[Vec<f64>]| {
            let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; s.b * s.heads * s.nq]);
            s.forward_relative(&x[0], &x[1], *grid, &mut out, &mut lse).unwrap();
            (out, lse)
        };
        let x = [qkv, rel];
        let lse = run(&x).1;
        let mut grads = x.each_ref().map(|x| vec![f64::NAN; x.len()]);
        let [dqkv, drel] = &mut grads;
        s.backward_relative(&x[0], &x[1], *grid, &lse, &dout, dqkv, drel).unwrap();
        central_differences("attention, relative", &x, &grads, |x| weighted_sum(&run(x).0, &dout));
    }
}

#[test]
fn fast_form_of_relative_positions_matches_reference() {
    for (s, grid) in &GRIDS {
        let [qkv, rel, dout] = relative_inputs::<f32>(s, *grid);
        let x = s.with_relative(&qkv, &rel, *grid).unwrap();
        let fresh = || (vec![f32::NAN; dout.len()], vec![f32::NAN; s.b * s.heads * s.nq]);
        let ((mut out, mut lse), (mut out0, mut lse0)) = (fresh(), fresh());
        cpu::forward(s, x, &mut out, &mut lse);
        reference::forward(s, x, &mut out0, &mut lse0);
        assert_close("out", &out, &out0, 2e-5);
        assert_close("lse", &lse, &lse0, 1e-6);
        let fresh = || (vec![f32::NAN; qkv.len()], vec![f32::NAN; rel.len()]);
        let ((mut d, mut drel), (mut d0, mut drel0)) = (fresh(), fresh());
        cpu::backward_packed(s, x, &lse0, &dout, &mut d, Some(&mut drel));
        reference::backward_packed(s, x, &lse0, &dout, &mut d0, Some(&mut drel0));
        assert_close("dqkv", &d, &d0, 5e-5);
        assert_close("drel", &drel, &drel0, 5e-5);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = Attention { b: 2, heads: 3, d: 32, nq: 800, nk: 70 };
    let [q, k, v, dout] = inputs::<f32>(&s);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; s.b * s.heads * s.nq]);
            s.forward(&q, &k, &v, None, &mut out, &mut lse).unwrap();
            let mut d = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
            let [dq, dk, dv] = &mut d;
            s.backward(&q, &k, &v, None, &lse, &dout, Some(dq), Some(dk), Some(dv)).unwrap();
            (out, lse, d)
        })
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn no_keys_give_zeros() {
    let s = Attention { b: 1, heads: 2, d: 3, nq: 2, nk: 0 };
    let (q, mut out, mut lse) = ([1.0f32; 12], [9.0; 12], [0.0; 4]);
    s.forward(&q, &[], &[], None, &mut out, &mut lse).unwrap();
    assert_eq!((out, lse), ([0.0; 12], [f32::INFINITY; 4]));
    let mut dq = [9.0; 12];
    s.backward(&q, &[], &[], None, &lse, &q, Some(&mut dq), None, Some(&mut [])).unwrap();
    assert_eq!(dq, [0.0; 12]);
}

/// A query whose scores are all NaN has no maximum, like a row with all keys blocked.
#[test]
fn nothing_hides_a_nan() {
    let s = Attention { b: 1, heads: 1, d: 4, nq: 3, nk: 17 };
    let [mut q, mut k, v, _] = inputs::<f32>(&s);
    q[4] = f32::NAN;
    let forward = |q: &[f32], k: &[f32], blocked: Option<&[u8]>| {
        let (mut out, mut lse) = (vec![0.0; 12], vec![0.0; 3]);
        s.forward(q, k, &v, blocked, &mut out, &mut lse).unwrap();
        (out, lse)
    };
    let blocked = mask(&s, Some(2));
    for blocked in [None, Some(&blocked[..])] {
        let (out, lse) = forward(&q, &k, blocked);
        assert!(out[4..8].iter().all(|v| v.is_nan()) && lse[1].is_nan(), "{out:?} {lse:?}");
        assert!(out[..4].iter().chain(&out[8..]).all(|v| v.is_finite()), "{out:?}");
    }
    q[4] = 1.0;
    k[0] = f32::NAN;
    assert!(forward(&q, &k, None).0.iter().all(|v| v.is_nan()));
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let s = Attention { b: 1, heads: 1, d: 2, nq: 3, nk: 2 };
    let error = s.forward_packed(&[0.0f32; 18], &mut [0.0; 6], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "attention: packed form with 3 queries and 2 keys");
    let (q, kv) = ([0.0f32; 6], [0.0f32; 4]);
    let error = s.forward(&q, &kv, &kv, Some(&[0; 5]), &mut [0.0; 6], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "attention: blocked has 5 elements, its sizes require 6");
}

#[test]
fn exp2_is_accurate_and_vanishes_at_the_end() {
    for i in 0..125_000 {
        let x = -i as f32 * 1e-3;
        let want = f64::from(x).exp2();
        for got in [cpu::exp2::<false>(x), cpu::exp2::<true>(x)] {
            assert!((f64::from(got) - want).abs() <= 2e-7 * want, "2^{x} = {got}, not {want}");
        }
    }
    assert_eq!([-125.1, f32::NEG_INFINITY].map(cpu::exp2::<true>), [0.0, 0.0]);
    assert!(cpu::exp2::<true>(f32::NAN).is_nan());
}
