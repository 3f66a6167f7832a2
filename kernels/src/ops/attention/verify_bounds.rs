//! Expected results of the attention kernels, with their error bounds.

use super::verify::Form;
use super::{Attention, reference};
use crate::check::{UNIT, sum_error};
use crate::device::Float;

/// Values of the reference, with the largest allowed error of each element before the result is
/// stored.
#[derive(Default)]
pub struct Expected {
    pub out: [Vec<f64>; 2],
    pub lse: [Vec<f64>; 2],
    pub dq: [Vec<f64>; 2],
    pub dk: [Vec<f64>; 2],
    pub dv: [Vec<f64>; 2],
    /// Empty without relative positions.
    pub drel: [Vec<f64>; 2],
}

/// Rounding of the weights: they enter their product in the storage type; everything else is f32.
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

/// Computes the expected results; `x` has q, k, v, dout and the relative positions.
pub fn expected<T: Float>(s: &Attention, x: [&[f64]; 5], form: &Form) -> Expected {
    let [q, k, v, dout, rel] = x;
    let mut e = Expected::default();
    let fresh = |n: usize| [vec![0.0; n], vec![0.0; n]];
    (e.out, e.lse) = (fresh(q.len()), fresh(s.b * s.heads * s.nq));
    (e.dq, e.dk, e.dv) = (fresh(q.len()), fresh(k.len()), fresh(v.len()));
    e.drel = fresh(rel.len());
    let view = |x, n| super::HeadView { x, rows: s.rows(n) };
    let inputs = super::Inputs {
        q: view(q, s.nq),
        k: view(k, s.nk),
        v: view(v, s.nk),
        blocked: if let Form::Blocked(flags) = form { Some(&flags[..]) } else { None },
        relative: match form {
            Form::Relative(grid) => Some(super::Relative { rel, grid: *grid }),
            _ => None,
        },
    };
    reference::forward(s, inputs, &mut e.out[0], &mut e.lse[0]);
    let grads = [&mut e.dq[0], &mut e.dk[0], &mut e.dv[0]].map(|d| Some(&mut d[..]));
    let drel = inputs.relative.is_some().then_some(&mut e.drel[0][..]);
    reference::backward(s, inputs, &e.lse[0], dout, grads, drel);
    for query in 0..s.b * s.heads * s.nq {
        let place = [query / s.nq / s.heads, query / s.nq % s.heads, query % s.nq];
        row_bounds::<T>(s, &mut e, &inputs, dout, place);
    }
    e
}

/// Query, its open keys, and the error bounds of its scores.
struct Row<'a> {
    place: [usize; 3],
    /// Index in `[b, heads, nq]`.
    query: usize,
    q: &'a [f64],
    keys: Vec<usize>,
    /// Exact weights of the keys.
    p: Vec<f64>,
    /// Largest relative error of a weight, and the largest error of the log-sum-exp.
    weight_error: f64,
    lse_error: f64,
}

/// Error bounds of one query. A score is a sum of d products, and so is dp; the error of a sum over
/// n terms is [`sum_error`]. The biases of a score are rounded a few times. An error of a score is
/// a relative error of its weight. 2^-21 bounds the error of an exponential, of which a weight has
/// two where keys are split.
fn row<'a, T: Float>(
    s: &Attention,
    x: &super::Inputs<'a, f64>,
    lse: &[f64],
    place: [usize; 3],
) -> Row<'a> {
    let [image, head, i] = place;
    let (sum, scale) = (sum_error::<T>(s.d), 1.0 / (s.d as f64).sqrt());
    let query = (image * s.heads + head) * s.nq + i;
    let (q, lse) = (x.q.row(s, image, head, i), lse[query]);
    let blocked = x.blocked_row(s, image, i);
    let open = |j: &usize| blocked.is_none_or(|blocked| blocked[*j] == 0);
    let keys: Vec<usize> = (0..s.nk).filter(open).collect();
    let relative = x.relative_row(s, image, head, i);
    let score = |&j: &usize| {
        let key = x.k.row(s, image, head, j);
        let [y, x] = relative.map_or([0.0; 2], |(rows, columns)| {
            [rows[j / columns.len()], columns[j % columns.len()]]
        });
        let sizes = (sum + 6.0) * dot_of_sizes(q, key) * scale + 6.0 * (y.abs() + x.abs());
        (dot(q, key) * scale + y + x, UNIT * sizes)
    };
    let scores: Vec<(f64, f64)> = keys.iter().map(score).collect();
    let score_error = scores.iter().fold(0.0, |worst: f64, (_, error)| worst.max(*error));
    let exact_exp = 2.0 * 0.5f64.powi(21);
    let lse_size = if lse.is_finite() { lse.abs() } else { 0.0 };
    let lse_error = score_error + depth::<T>(s) * UNIT + exact_exp + 4.0 * UNIT * lse_size;
    let weight_error = 2.0 * score_error + exact_exp + lse_error;
    let p = scores.iter().map(|(score, _)| (score - lse).exp()).collect();
    Row { place, query, q, keys, p, weight_error, lse_error }
}

/// Error bound of a sum over keys or queries.
fn depth<T: Float>(s: &Attention) -> f64 {
    sum_error::<T>(s.nk.max(s.nq)) + 16.0
}

/// Adds the contribution of one query to the bounds.
fn row_bounds<T: Float>(
    s: &Attention,
    e: &mut Expected,
    x: &super::Inputs<'_, f64>,
    dout: &[f64],
    place: [usize; 3],
) {
    let Row { place: [image, head, i], query, q, keys, p, weight_error, lse_error } =
        row::<T>(s, x, &e.lse[0], place);
    e.lse[1][query] = lse_error;
    let (d, scale, wide) = (s.d, 1.0 / (s.d as f64).sqrt(), weight_rounding::<T>());
    let at_q = s.rows(s.nq).at(s, image, head, i);
    let at_k = |j: usize| s.rows(s.nk).at(s, image, head, j);
    let g = &dout[at_q..at_q + d];
    let relative = wide + weight_error + depth::<T>(s) * UNIT;
    for (&j, p) in keys.iter().zip(&p) {
        add(&mut e.out[1][at_q..at_q + d], p * relative, x.v.row(s, image, head, j));
        add(&mut e.dv[1][at_k(j)..at_k(j) + d], p * relative, g);
    }
    // delta = dout . out, from the stored out
    let (out, out_error) = (&e.out[0][at_q..at_q + d], &e.out[1][at_q..at_q + d]);
    let mean = dot(g, out);
    let stored_error = |(o, e): (&f64, &f64)| e + f64::from(T::ROUNDING) * (o.abs() + e);
    let stored_error: Vec<f64> = out.iter().zip(out_error).map(stored_error).collect();
    let mean_error =
        dot_of_sizes(g, &stored_error) + (d as f64 + 2.0) * UNIT * dot_of_sizes(g, out);
    for (&j, p) in keys.iter().zip(&p) {
        let value = x.v.row(s, image, head, j);
        let dp = dot(g, value);
        let ds = p * (dp - mean);
        let dp_error = (sum_error::<T>(d) + 2.0) * UNIT * dot_of_sizes(g, value);
        let error = p * (dp_error + mean_error) + ds.abs() * relative;
        // Second order: errors of the weight and of dp - mean together.
        let error = error * (1.0 + wide + weight_error);
        let key = x.k.row(s, image, head, j);
        add(&mut e.dq[1][at_q..at_q + d], error * scale, key);
        add(&mut e.dk[1][at_k(j)..at_k(j) + d], error * scale, q);
        if let Some(r) = &x.relative {
            let numbers = &mut e.drel[1][query * r.len()..];
            numbers[j / r.grid[1]] += error;
            numbers[r.grid[0] + j % r.grid[1]] += error;
        }
    }
}
