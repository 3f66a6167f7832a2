use super::{Forward, QueryGradient, RelativePosition, TableGradients};
use crate::call::{Call, Host};
use crate::check::{noise, weighted_sum};
use crate::ops::attention::{PackedAttention, PackedForward};

/// qkv, both tables, drel.
fn inputs<T: crate::Real>(s: &RelativePosition) -> [Vec<T>; 4] {
    [
        noise(s.tokens() * 3 * s.d, 1),
        noise(s.table(s.h), 2),
        noise(s.table(s.w), 3),
        noise(s.biases(), 4),
    ]
}

#[test]
fn bits_do_not_depend_on_threads() {
    let s = RelativePosition { b: 1, heads: 2, d: 80, h: 14, w: 14 };
    let x = inputs::<f32>(&s);
    let [qkv, rows, columns, drel] = x.each_ref().map(|x| &x[..]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut d = [qkv, rows, columns].map(|x| vec![0.0; x.len()]);
            let [dqkv, drows, dcolumns] = &mut d;
            QueryGradient::<Host, _> { rows, columns, drel, dqkv }.run(&s).unwrap();
            let (drows, dcolumns) = (Some(&mut drows[..]), Some(&mut dcolumns[..]));
            TableGradients::<Host, _> { qkv, drel, drows, dcolumns }.run(&s).unwrap();
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
    Forward::<Host, _> { qkv: &qkv, rows: &rows, columns: &columns, rel: &mut rel }
        .run(&s)
        .unwrap();
    let n = s.h * s.w;
    let a = PackedAttention { b: 1, t: n, heads: s.heads, d: s.d, grid: Some([s.h, s.w]) };
    let (mut out, mut lse) = (vec![0.0; n * s.heads * s.d], vec![0.0; s.heads * n]);
    let (to, to_lse) = (&mut out[..], &mut lse[..]);
    PackedForward::<Host, _> { rel: Some(&rel), qkv: &qkv, out: to, lse: to_lse }.run(&a).unwrap();
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
