use half::bf16;

use super::{Attention, SavedGpu, reference};
use crate::check::{UNIT, assert_close, assert_within, noise, stored};
use crate::device::{Buffer, Device, Float};

/// Values of the reference, with the largest error that the kernels may make before the result is
/// stored, element by element.
#[derive(Default)]
struct Expected {
    out: [Vec<f64>; 2],
    lse: [Vec<f64>; 2],
    dq: [Vec<f64>; 2],
    dk: [Vec<f64>; 2],
    dv: [Vec<f64>; 2],
}

/// Weights enter their product in the storage type; everything else is f32.
fn weight_rounding<T: Float>() -> f64 {
    if size_of::<T>() == 2 { f64::from(T::ROUNDING) } else { 0.0 }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn dot_of_sizes(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x * y).abs()).sum()
}

fn add(to: &mut [f64], by: f64, x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(t, x)| *t += by * x.abs());
}

fn expected<T: Float>(s: &Attention, x: [&[f64]; 4], blocked: Option<&[u8]>) -> Expected {
    let [q, k, v, dout] = x;
    let mut e = Expected::default();
    let fresh = |n: usize| [vec![0.0; n], vec![0.0; n]];
    (e.out, e.lse) = (fresh(q.len()), fresh(s.b * s.heads * s.nq));
    (e.dq, e.dk, e.dv) = (fresh(q.len()), fresh(k.len()), fresh(v.len()));
    let inputs = s.separate(q, k, v, blocked).unwrap();
    reference::forward(s, inputs, &mut e.out[0], &mut e.lse[0]);
    let grads = [&mut e.dq[0], &mut e.dk[0], &mut e.dv[0]].map(|d| Some(&mut d[..]));
    reference::backward(s, inputs, &e.lse[0], dout, grads, None);
    for image in 0..s.b {
        for head in 0..s.heads {
            for i in 0..s.nq {
                row_bounds::<T>(s, &mut e, x, blocked, [image, head, i]);
            }
        }
    }
    e
}

/// Adds what one query contributes to the bounds.
///
/// A score is a sum of d products, and so is dp; each sum over n terms in f32 has a relative error
/// of n units against the sum of sizes. An error of a score is a relative error of its weight;
/// 2^-21 is that of the exponential.
fn row_bounds<T: Float>(
    s: &Attention,
    e: &mut Expected,
    [q, k, v, dout]: [&[f64]; 4],
    blocked: Option<&[u8]>,
    [image, head, i]: [usize; 3],
) {
    let (d, scale) = (s.d, 1.0 / (s.d as f64).sqrt());
    let at_q = s.rows(s.nq).at(s, image, head, i);
    let at_k = |j: usize| s.rows(s.nk).at(s, image, head, j);
    let (q, g) = (&q[at_q..at_q + d], &dout[at_q..at_q + d]);
    let row = (image * s.heads + head) * s.nq + i;
    let lse = e.lse[0][row];
    let open = |j: &usize| blocked.is_none_or(|b| b[(image * s.nq + i) * s.nk + j] == 0);
    let keys: Vec<usize> = (0..s.nk).filter(open).collect();
    let score_error = keys.iter().map(|&j| {
        let sizes = dot_of_sizes(q, &k[at_k(j)..at_k(j) + d]) * scale;
        (d as f64 + 6.0) * UNIT * sizes
    });
    let exact_exp = 0.5f64.powi(21);
    let score_error = score_error.fold(0.0, f64::max);
    let (depth, wide) = (s.nk.max(s.nq) as f64 + 16.0, weight_rounding::<T>());
    let lse_error = score_error + depth * UNIT + exact_exp;
    e.lse[1][row] = lse_error + 4.0 * UNIT * if lse.is_finite() { lse.abs() } else { 0.0 };
    let weight_error = 2.0 * score_error + exact_exp + e.lse[1][row];
    let p: Vec<f64> =
        keys.iter().map(|&j| (dot(q, &k[at_k(j)..at_k(j) + d]) * scale - lse).exp()).collect();
    for (&j, p) in keys.iter().zip(&p) {
        let relative = wide + weight_error + depth * UNIT;
        add(&mut e.out[1][at_q..at_q + d], p * relative, &v[at_k(j)..at_k(j) + d]);
        add(&mut e.dv[1][at_k(j)..at_k(j) + d], p * relative, g);
    }
    // delta = dout . out, from the stored out
    let (out, out_error) = (&e.out[0][at_q..at_q + d], &e.out[1][at_q..at_q + d]);
    let mean = dot(g, out);
    let stored_error: Vec<f64> = out
        .iter()
        .zip(out_error)
        .map(|(o, e)| e + f64::from(T::ROUNDING) * (o.abs() + e))
        .collect();
    let mean_error =
        dot_of_sizes(g, &stored_error) + (d as f64 + 2.0) * UNIT * dot_of_sizes(g, out);
    for (&j, p) in keys.iter().zip(&p) {
        let (key, value) = (&k[at_k(j)..at_k(j) + d], &v[at_k(j)..at_k(j) + d]);
        let dp = dot(g, value);
        let ds = p * (dp - mean);
        let dp_error = (d as f64 + 2.0) * UNIT * dot_of_sizes(g, value);
        let error = p * (dp_error + mean_error) + ds.abs() * (wide + weight_error + depth * UNIT);
        // Second order: errors of the weight and of dp - mean together.
        let error = error * (1.0 + wide + weight_error);
        add(&mut e.dq[1][at_q..at_q + d], error * scale, key);
        add(&mut e.dk[1][at_k(j)..at_k(j) + d], error * scale, q);
    }
}

/// out, lse, dq, dk, dv.
type Results<T> = (Vec<T>, Vec<f32>, [Vec<T>; 3]);

fn interleave<T: Copy>(s: &Attention, parts: [&[T]; 3]) -> Vec<T> {
    let c = s.heads * s.d;
    (0..s.b * s.nq).flat_map(|t| parts.map(|p| p[t * c..(t + 1) * c].to_vec())).flatten().collect()
}

fn run_separate<T: Float>(s: &Attention, x: [&[T]; 4], blocked: Option<&[u8]>) -> Results<T> {
    let device = Device::virtual_gpu();
    let up = |name, x: &[T]| device.upload(name, x).unwrap();
    let [q, k, v, dout] = [up("q", x[0]), up("k", x[1]), up("v", x[2]), up("dout", x[3])];
    let blocked = blocked.map(|b| device.upload("blocked", b).unwrap());
    let blocked = blocked.as_ref().map(Buffer::view);
    let mut out = device.alloc("out", x[0].len()).unwrap();
    let mut lse = device.alloc("lse", s.b * s.heads * s.nq).unwrap();
    let (qv, kv, vv) = (q.view(), k.view(), v.view());
    s.forward_gpu(&device, qv, kv, vv, blocked, out.view_mut(), lse.view_mut()).unwrap();
    let mut d = [x[0], x[1], x[2]].map(|x| device.alloc::<T>("gradient", x.len()).unwrap());
    let [dq, dk, dv] = &mut d;
    let (saved, dout) = (SavedGpu { out: out.view(), lse: lse.view() }, dout.view());
    let dkv = Some((dk.view_mut(), dv.view_mut()));
    s.backward_gpu(&device, qv, kv, vv, blocked, saved, dout, Some(dq.view_mut()), dkv).unwrap();
    // forward; delta, dq, dk and dv. A grid without blocks is not launched.
    assert_eq!(device.counters().launches, if s.nk > 0 { 4 } else { 3 });
    let d = d.map(|d| device.download(d.view()).unwrap());
    (device.download(out.view()).unwrap(), device.download(lse.view()).unwrap(), d)
}

/// out, lse, dqkv.
fn run_packed<T: Float>(s: &Attention, qkv: &[T], dout: &[T]) -> (Vec<T>, Vec<f32>, Vec<T>) {
    let device = Device::virtual_gpu();
    let (x, dout) = (device.upload("qkv", qkv).unwrap(), device.upload("dout", dout).unwrap());
    let mut out = device.alloc("out", dout.len()).unwrap();
    let mut lse = device.alloc("lse", s.b * s.heads * s.nq).unwrap();
    s.forward_packed_gpu(&device, x.view(), out.view_mut(), lse.view_mut()).unwrap();
    let mut dqkv = device.alloc("dqkv", qkv.len()).unwrap();
    let saved = SavedGpu { out: out.view(), lse: lse.view() };
    s.backward_packed_gpu(&device, x.view(), saved, dout.view(), dqkv.view_mut()).unwrap();
    let down = |b: &Buffer<T>| device.download(b.view()).unwrap();
    (down(&out), device.download(lse.view()).unwrap(), down(&dqkv))
}

/// A third of the flags set; row `whole` has no open key.
fn flags(s: &Attention, whole: usize) -> Vec<u8> {
    let draw = noise::<f64>(s.b * s.nq * s.nk, 5);
    let blocked = |i: usize| i / s.nk == whole || draw[i] < -0.33;
    (0..draw.len()).map(|i| u8::from(blocked(i))).collect()
}

/// Bounds are for the worst case. In f32 the kernels have to be as near as `cpu.rs` is. (With one
/// key gradients of scores are 0, and relative errors say nothing.)
fn as_close_as_the_fast_form<T: Float>(what: &str, got: &[T], want: &[f64]) {
    if size_of::<T>() == 4 && want.iter().any(|w| w.abs() > 1e-3) {
        let got: Vec<f64> = got.iter().map(|x| f64::from(x.f32())).collect();
        assert_close(what, &got, want, 5e-5);
    }
}

fn check<T: Float>(s: &Attention, blocked: Option<&[u8]>) {
    let c = s.heads * s.d;
    let sizes = [s.nq, s.nk, s.nk, s.nq].map(|n| s.b * n * c);
    let mut seed = 0;
    let drawn = sizes.map(|n| {
        seed += 1;
        // Scores reach tens, so that the maximum must be taken out.
        let size = if seed < 3 { 4.0 } else { 1.0 };
        stored::<T>(&noise::<f32>(n, seed).iter().map(|x| size * x).collect::<Vec<f32>>())
    });
    let x = drawn.each_ref().map(|(x, _)| &x[..]);
    let e = expected::<T>(s, drawn.each_ref().map(|(_, x)| &x[..]), blocked);
    let (out, lse, d) = run_separate(s, x, blocked);
    let again = run_separate(s, x, blocked);
    assert!((&out, &lse, &d) == (&again.0, &again.1, &again.2), "two runs differ");
    let with = if blocked.is_some() { ", blocked" } else { "" };
    let Attention { b, heads, d: width, nq, nk } = *s;
    let what = format!("attention{} b {b} h {heads} d {width} {nq} x {nk}{with}", T::SUFFIX);
    let within = |part: &str, got: &[T], want: &[Vec<f64>; 2]| {
        assert_within(&format!("{what}, {part}"), got, &want[0], |i| want[1][i]);
        as_close_as_the_fast_form(&format!("{what}, {part}"), got, &want[0]);
    };
    within("out", &out, &e.out);
    for (part, (got, want)) in ["dq", "dk", "dv"].iter().zip(d.iter().zip([&e.dq, &e.dk, &e.dv])) {
        within(part, got, want);
    }
    // Rows without keys have an infinite lse, which no bound measures.
    assert!(lse.iter().zip(&e.lse[0]).all(|(l, e)| l.is_infinite() == e.is_infinite()));
    let finite: Vec<usize> = (0..lse.len()).filter(|&i| lse[i].is_finite()).collect();
    let pick = |x: &[f64]| finite.iter().map(|&i| x[i]).collect::<Vec<f64>>();
    let got: Vec<f32> = finite.iter().map(|&i| lse[i]).collect();
    let bound = pick(&e.lse[1]);
    assert_within(&format!("{what}, lse"), &got, &pick(&e.lse[0]), |i| bound[i]);
    if nq == nk && blocked.is_none() {
        let qkv = interleave(s, [x[0], x[1], x[2]]);
        let (out_p, lse_p, dqkv) = run_packed(s, &qkv, x[3]);
        assert!((out_p, lse_p) == (out, lse), "packed and separate form differ");
        assert!(dqkv == interleave(s, [&d[0], &d[1], &d[2]]), "packed gradients differ");
    }
}

#[test]
fn kernels_match_the_reference() {
    for (b, heads, d, nq, nk) in [
        (1, 1, 32, 1, 1),
        (2, 3, 32, 65, 65),
        (1, 2, 32, 7, 150),
        (1, 1, 64, 129, 129),
        (2, 1, 64, 33, 70),
        (1, 1, 80, 131, 131),
        (1, 2, 80, 17, 3),
    ] {
        let s = Attention { b, heads, d, nq, nk };
        check::<bf16>(&s, None);
        check::<f32>(&s, None);
    }
}

#[test]
fn blocked_keys_get_no_weight() {
    for (b, heads, nq, nk) in [(1, 1, 1, 1), (2, 2, 70, 131), (1, 3, 5, 64), (1, 1, 100, 33)] {
        let s = Attention { b, heads, d: 32, nq, nk };
        // The last row of the first image has no open key.
        let flags = flags(&s, nq - 1);
        check::<bf16>(&s, Some(&flags));
        check::<f32>(&s, Some(&flags));
    }
}

/// What the layout of shared memory promises: the rows of a tile that are read together meet every
/// bank once. At 80 channels, ten units of 16 bytes, a copy reaches into the next row, where one
/// lane in eight meets another: one more pass for each copy.
#[test]
fn tiles_meet_no_bank_twice() {
    for d in [32, 64, 80] {
        let s = Attention { b: 1, heads: 1, d, nq: 128, nk: 128 };
        let device = Device::virtual_gpu();
        let x = device.upload("qkv", &vec![bf16::ONE; 3 * 128 * d]).unwrap();
        let mut out = device.alloc("out", 128 * d).unwrap();
        let mut lse = device.alloc("lse", 128).unwrap();
        s.forward_packed_gpu(&device, x.view(), out.view_mut(), lse.view_mut()).unwrap();
        let mut dqkv = device.alloc("dqkv", 3 * 128 * d).unwrap();
        let (saved, g) = (SavedGpu { out: out.view(), lse: lse.view() }, out.view());
        s.backward_packed_gpu(&device, x.view(), saved, g, dqkv.view_mut()).unwrap();
        let work = device.work().unwrap();
        println!("attention, d {d}: {work:?}");
        // Forward one block of 128 queries, dq and dkv two of 64 with two operands each.
        let rows = (128 + 256) + 2 * (2 * (64 + 64) + 2 * 256);
        let expected = if d == 80 { rows * 10 / 32 } else { 0 };
        assert_eq!(work.bank_conflicts, expected);
    }
}

#[test]
fn no_keys_give_zeros() {
    let s = Attention { b: 1, heads: 2, d: 32, nq: 3, nk: 0 };
    let x = vec![1.0f32; 192];
    let (out, lse, d) = run_separate(&s, [&x, &[], &[], &x], None);
    assert_eq!((out, lse), (vec![0.0; 192], vec![f32::INFINITY; 6]));
    assert_eq!(d, [vec![0.0; 192], vec![], vec![]]);
}

#[test]
fn head_widths_without_a_kernel_are_named() {
    let device = Device::virtual_gpu();
    let s = Attention { b: 1, heads: 1, d: 48, nq: 1, nk: 1 };
    let x = device.zeros::<f32>("x", 48).unwrap();
    let (mut out, mut lse) = (device.alloc("out", 48).unwrap(), device.alloc("lse", 1).unwrap());
    let x = x.view();
    let error = s.forward_gpu(&device, x, x, x, None, out.view_mut(), lse.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "attention: heads of 48 channels have no GPU kernel");
}
