use super::{
    Attention, Backward, Forward, PackedAttention, PackedBackward, PackedForward, cpu, reference,
};
use crate::Real;
use crate::call::{self, Call, Host};
use crate::check::{assert_close, noise};

/// q, k, v, dout; scores reach tens, so that the maximum must be subtracted.
fn inputs<T: Real>(s: &Attention) -> [Vec<T>; 4] {
    let n = [s.queries(), s.keys(), s.keys(), s.queries()];
    let big = |x: Vec<T>| x.into_iter().map(|v| v * T::of(4.0)).collect();
    [big(noise(n[0], 1)), big(noise(n[1], 2)), noise(n[2], 3), noise(n[3], 4)]
}

/// out, lse, dq, dk and dv.
type Outputs<T> = [Vec<T>; 5];

fn run<T: Real>(s: &Attention, x: [&[T]; 4], wanted: [bool; 3]) -> Outputs<T> {
    let ([q, k, v, dout], blocked) = (x, None);
    let (mut out, mut lse) = (vec![T::ZERO; q.len()], vec![T::ZERO; s.rows_of_scores()]);
    let c = Forward { q, k, v, blocked, out: &mut out[..], lse: &mut lse[..] };
    call::run::<T, Forward<'_, Host, T>>(s, c).unwrap();
    let mut d = [q, k, v].map(|x| vec![T::ZERO; x.len()]);
    let mut each = d.iter_mut().zip(wanted).map(|(d, wanted)| wanted.then_some(&mut d[..]));
    let mut next = || each.next().flatten();
    let (dq, dk, dv) = (next(), next(), next());
    let c = Backward { q, k, v, blocked, out: None, lse: &lse[..], dout, dq, dk, dv };
    call::run::<T, Backward<'_, Host, T>>(s, c).unwrap();
    let [dq, dk, dv] = d;
    [out, lse, dq, dk, dv]
}

fn packed_form_is_the_separate_form<T: Real>(b: usize, heads: usize, d: usize, t: usize) {
    let packed = PackedAttention { b, t, heads, d, grid: None };
    let s = packed.separate();
    let x = inputs::<T>(&s);
    let x = x.each_ref().map(|x| &x[..]);
    let [out, lse, dq, dk, dv] = run(&s, x, [true; 3]);
    let (rel, qkv) = (None, &reference::interleave(&s, [x[0], x[1], x[2]])[..]);
    let (mut out_p, mut lse_p) = (vec![T::ZERO; out.len()], vec![T::ZERO; lse.len()]);
    let c = PackedForward { rel, qkv, out: &mut out_p[..], lse: &mut lse_p[..] };
    call::run::<T, PackedForward<'_, Host, T>>(&packed, c).unwrap();
    assert_eq!((&out_p, &lse_p), (&out, &lse));
    let (mut dqkv, lse, dout, drel) = (vec![T::ZERO; qkv.len()], &lse[..], x[3], None);
    let c = PackedBackward { rel, qkv, out: None, lse, dout, dqkv: &mut dqkv[..], drel };
    call::run::<T, PackedBackward<'_, Host, T>>(&packed, c).unwrap();
    assert_eq!(dqkv, reference::interleave(&s, [&dq, &dk, &dv]));
}

#[test]
fn packed_forms_are_the_separate_forms() {
    packed_form_is_the_separate_form::<f64>(2, 3, 5, 9);
    for (b, heads, d, t) in [(1, 1, 1, 1), (1, 2, 64, 257), (1, 1, 64, 1025)] {
        packed_form_is_the_separate_form::<f32>(b, heads, d, t);
    }
}

#[test]
fn gradients_do_not_depend_on_which_are_wanted() {
    for (d, nq, nk) in [(5, 7, 13), (80, 65, 130), (32, 100, 256)] {
        let s = Attention { b: 2, heads: 2, d, nq, nk, masked: false };
        let x = inputs::<f32>(&s);
        let x = x.each_ref().map(|x| &x[..]);
        let all = run(&s, x, [true; 3]);
        for part in 0..3 {
            let alone = run(&s, x, [0, 1, 2].map(|i| i == part));
            assert_eq!(alone[2 + part], all[2 + part], "part {part}");
        }
    }
}

/// The tokens of DINOv2 at 512 px, of which a head is several tasks.
#[test]
fn the_fast_form_is_accurate_for_long_rows() {
    let s = Attention { b: 1, heads: 1, d: 64, nq: 1025, nk: 1025, masked: false };
    let x = inputs::<f32>(&s);
    let [q, k, v, dout] = x.each_ref().map(|x| &x[..]);
    let [out, lse, dq, dk, dv] = run(&s, [q, k, v, dout], [true; 3]);
    let (mut want, mut want_lse) = (vec![0.0; out.len()], vec![0.0; lse.len()]);
    let (to, to_lse) = (&mut want[..], &mut want_lse[..]);
    let forward = Forward { q, k, v, blocked: None, out: to, lse: to_lse };
    Forward::<Host, f32>::reference(&s, forward);
    // A score of 30 has a rounding error of 2e-6, which the exponential turns into a relative error.
    assert_close("out", &out, &want, 2e-5);
    assert_close("lse", &lse, &want_lse, 1e-6);
    let mut d = [q, k, v].map(|x| vec![0.0; x.len()]);
    let [to_q, to_k, to_v] = d.each_mut().map(|d| Some(&mut d[..]));
    let (blocked, saved, lse) = (None, None, &lse[..]);
    let backward =
        Backward { q, k, v, blocked, out: saved, lse, dout, dq: to_q, dk: to_k, dv: to_v };
    Backward::<Host, f32>::reference(&s, backward);
    for (name, (got, want)) in ["dq", "dk", "dv"].iter().zip([dq, dk, dv].iter().zip(&d)) {
        assert_close(name, got, want, 5e-5);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = Attention { b: 2, heads: 3, d: 32, nq: 800, nk: 70, masked: false };
    let x = inputs::<f32>(&s);
    let x = x.each_ref().map(|x| &x[..]);
    let at = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&s, x, [true; 3]))
    };
    let one = at(1);
    assert!([2, 3, 5].into_iter().all(|threads| at(threads) == one));
}

#[test]
fn no_keys_give_zeros() {
    let s = Attention { b: 1, heads: 2, d: 3, nq: 2, nk: 0, masked: false };
    let [out, lse, dq, ..] = run(&s, [&[1.0f32; 12], &[], &[], &[1.0; 12]], [true, false, true]);
    assert_eq!((out, lse, dq), (vec![0.0; 12], vec![f32::INFINITY; 4], vec![0.0; 12]));
}

/// A query whose scores are all NaN has no maximum, like a row with all keys blocked.
#[test]
fn nothing_hides_a_nan() {
    let s = Attention { b: 1, heads: 1, d: 4, nq: 3, nk: 17, masked: false };
    let [mut q, mut k, v, _] = inputs::<f32>(&s);
    q[4] = f32::NAN;
    let forward = |q: &[f32], k: &[f32], blocked: Option<&[u8]>| {
        let (mut out, mut lse) = (vec![0.0; 12], vec![0.0; 3]);
        let s = Attention { masked: blocked.is_some(), ..s };
        let (to, to_lse) = (&mut out[..], &mut lse[..]);
        Forward::<Host, _> { q, k, v: &v, blocked, out: to, lse: to_lse }.run(&s).unwrap();
        (out, lse)
    };
    // Every query keeps its first key, but the last one keeps none.
    let blocked: Vec<u8> = (0..51).map(|i| u8::from(i >= 34 || i % 17 % 3 == 1)).collect();
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
fn a_grid_or_a_mask_that_does_not_fit_is_named() {
    let s = PackedAttention { b: 1, t: 2, heads: 1, d: 2, grid: Some([2, 2]) };
    let error = PackedForward::<Host, f32>::default().run(&s).unwrap_err();
    assert_eq!(error.to_string(), "attention: 2 tokens are not a grid of 2 rows of 2");
    let s = Attention { b: 1, heads: 1, d: 1, nq: 1, nk: 1, masked: false };
    let (q, mut out, mut lse) = (&[0.0f32][..], [0.0], [0.0]);
    let (out, lse) = (&mut out[..], &mut lse[..]);
    let c = Forward::<Host, _> { q, k: q, v: q, blocked: Some(&[1]), out, lse };
    let error = c.run(&s).unwrap_err();
    assert_eq!(error.to_string(), "attention: blocked has 1 elements, its sizes require 0");
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
