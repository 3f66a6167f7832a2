use super::{RelativePosition, cpu, reference};
use crate::check::{assert_close, central_differences, noise, weighted_sum};
use crate::ops::attention::Attention;

const SHAPES: [RelativePosition; 4] = [
    RelativePosition { b: 1, heads: 1, d: 1, h: 1, w: 1 },
    RelativePosition { b: 2, heads: 2, d: 3, h: 2, w: 3 },
    RelativePosition { b: 1, heads: 2, d: 80, h: 14, w: 14 },
    RelativePosition { b: 2, heads: 1, d: 17, h: 5, w: 9 },
];

/// qkv, both tables, drel.
fn inputs<T: crate::Real>(s: &RelativePosition) -> [Vec<T>; 4] {
    let tokens = s.b * s.heads * s.h * s.w;
    let table = |n: usize, seed| noise((2 * n - 1) * s.d, seed);
    [noise(tokens * 3 * s.d, 1), table(s.h, 2), table(s.w, 3), noise(tokens * s.width(), 4)]
}

#[test]
fn gradient_matches_central_differences() {
    for s in &SHAPES[..2] {
        let [qkv, rows, columns, drel] = inputs::<f64>(s);
        // Gradients are added to the old values.
        let mut d = [&qkv, &rows, &columns].map(|x| vec![0.5; x.len()]);
        let [dqkv, drows, dcolumns] = &mut d;
        let dtables = [Some(&mut drows[..]), Some(&mut dcolumns[..])];
        s.backward(&qkv, [&rows, &columns], &drel, Some(dqkv), dtables).unwrap();
        let d = d.map(|d| d.into_iter().map(|d| d - 0.5).collect());
        central_differences("relative_position", &[qkv, rows, columns], &d, |x| {
            let mut rel = vec![0.0; drel.len()];
            s.forward(&x[0], [&x[1], &x[2]], &mut rel).unwrap();
            weighted_sum(&rel, &drel)
        });
    }
}

#[test]
fn fast_form_matches_reference() {
    for s in &SHAPES {
        let [qkv, rows, columns, drel] = inputs::<f32>(s);
        let tables = [&rows[..], &columns[..]];
        let (mut got, mut want) = (vec![f32::NAN; drel.len()], vec![f32::NAN; drel.len()]);
        cpu::forward(s, &qkv, tables, &mut got);
        reference::forward(s, &qkv, tables, &mut want);
        assert_close("rel", &got, &want, 1e-6);
        let fresh = || [&qkv, &rows, &columns].map(|x| vec![0.25f32; x.len()]);
        let (mut fast, mut slow) = (fresh(), fresh());
        let [dqkv, drows, dcolumns] = &mut fast;
        cpu::backward(s, &qkv, tables, &drel, Some(dqkv), [Some(drows), Some(dcolumns)]);
        let [dqkv, drows, dcolumns] = &mut slow;
        reference::backward(s, &qkv, tables, &drel, Some(dqkv), [Some(drows), Some(dcolumns)]);
        for (name, (fast, slow)) in ["dqkv", "dR", "dC"].iter().zip(fast.iter().zip(&slow)) {
            assert_close(name, fast, slow, 1e-5);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = SHAPES[2];
    let [qkv, rows, columns, drel] = inputs::<f32>(&s);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut d = [&qkv, &rows, &columns].map(|x| vec![0.0; x.len()]);
            let [dqkv, drows, dcolumns] = &mut d;
            let dtables = [Some(&mut drows[..]), Some(&mut dcolumns[..])];
            s.backward(&qkv, [&rows, &columns], &drel, Some(dqkv), dtables).unwrap();
            d
        })
    };
    let one = run(1);
    assert!([2, 3].into_iter().all(|threads| run(threads) == one));
}

/// The definition of SAM: score plus the rows of both tables at the distance of query and key, then
/// softmax and values.
#[test]
fn attention_adds_the_tables_at_the_distance_of_query_and_key() {
    let s = RelativePosition { b: 1, heads: 2, d: 4, h: 3, w: 2 };
    let [qkv, rows, columns, drel] = inputs::<f64>(&s);
    let mut rel = vec![0.0; drel.len()];
    s.forward(&qkv, [&rows, &columns], &mut rel).unwrap();
    let n = s.h * s.w;
    let a = Attention { b: 1, heads: s.heads, d: s.d, nq: n, nk: n };
    let (mut out, mut lse) = (vec![0.0; n * s.heads * s.d], vec![0.0; s.heads * n]);
    a.forward_relative(&qkv, &rel, [s.h, s.w], &mut out, &mut lse).unwrap();
    let part = |token: usize, part: usize, head: usize| {
        &qkv[((token * 3 + part) * s.heads + head) * s.d..][..s.d]
    };
    for (head, i) in (0..s.heads).flat_map(|head| (0..n).map(move |i| (head, i))) {
        let q = part(i, 0, head);
        let score = |j: usize| {
            let (dy, dx) = (i / s.w + s.h - 1 - j / s.w, i % s.w + s.w - 1 - j % s.w);
            weighted_sum(q, part(j, 1, head)) * (s.d as f64).powf(-0.5)
                + weighted_sum(q, &rows[dy * s.d..][..s.d])
                + weighted_sum(q, &columns[dx * s.d..][..s.d])
        };
        let weights: Vec<f64> = (0..n).map(|j| score(j).exp()).collect();
        let total: f64 = weights.iter().sum();
        assert!((lse[head * n + i] - total.ln()).abs() < 1e-12);
        for c in 0..s.d {
            let sum: f64 = (0..n).map(|j| weights[j] * part(j, 2, head)[c]).sum();
            let got = out[(i * s.heads + head) * s.d + c];
            assert!((got - sum / total).abs() < 1e-12, "{got} is not {}", sum / total);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_named() {
    let s = RelativePosition { b: 1, heads: 1, d: 2, h: 2, w: 1 };
    let (mut rel, qkv) = ([0.0f32; 6], [0.0; 12]);
    let error = s.forward(&qkv, [&[0.0; 5], &[0.0; 2]], &mut rel).unwrap_err().to_string();
    assert_eq!(error, "relative_position: table of rows has 5 elements, its sizes require 6");
    let a = Attention { b: 1, heads: 1, d: 2, nq: 2, nk: 2 };
    let (mut out, mut lse) = ([0.0; 4], [0.0; 2]);
    let error = a.forward_relative(&qkv, &rel, [2, 2], &mut out, &mut lse).unwrap_err();
    assert_eq!(error.to_string(), "attention: 2 tokens are not a grid of 2 rows of 2");
}
