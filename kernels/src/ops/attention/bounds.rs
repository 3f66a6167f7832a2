//! Error bounds of attention.

use half::bf16;

use super::{Attention, Inputs, reference};
use crate::check::UNIT;
use crate::check::checks::Arithmetic;
use crate::device::Element;

/// Largest allowed error of each element before the result is stored.
#[derive(Default)]
pub struct Bounds {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    /// Empty without relative positions.
    pub drel: Vec<f64>,
}

/// Rounding of the weights: they enter their product in the storage type; everything else is f32.
fn weight_rounding(of: Arithmetic) -> f64 {
    if of.bf16 { f64::from(bf16::ROUNDING) } else { 0.0 }
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

/// Computes the bounds of the forward pass and, with `dout`, of the backward pass.
pub fn bounds(s: &Attention, of: Arithmetic, x: &Inputs<'_, f64>, dout: Option<&[f64]>) -> Bounds {
    let (mut out, mut lse) = (vec![0.0; s.queries()], vec![0.0; s.rows_of_scores()]);
    reference::forward(s, *x, &mut out, &mut lse);
    let mut e = Bounds {
        out: vec![0.0; out.len()],
        lse: vec![0.0; lse.len()],
        dq: vec![0.0; s.queries()],
        dk: vec![0.0; s.keys()],
        dv: vec![0.0; s.keys()],
        drel: vec![0.0; x.relative.map_or(0, |r| r.rel.len())],
    };
    for query in 0..s.rows_of_scores() {
        let place = [query / s.nq / s.heads, query / s.nq % s.heads, query % s.nq];
        let row = row(s, of, x, &lse, place);
        forward_bounds(s, of, &mut e, x, &row);
        if let Some(dout) = dout {
            backward_bounds(s, of, &mut e, x, &row, &out, dout);
        }
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
/// n terms is [`Arithmetic::products`]. The biases of a score are rounded a few times. An error of a score is
/// a relative error of its weight. 2^-21 bounds the error of an exponential, of which a weight has
/// two where keys are split.
fn row<'a>(
    s: &Attention,
    of: Arithmetic,
    x: &Inputs<'a, f64>,
    lse: &[f64],
    place: [usize; 3],
) -> Row<'a> {
    let [image, head, i] = place;
    let (sum, scale) = (of.products(s.d), 1.0 / (s.d as f64).sqrt());
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
    let lse_error = score_error + depth(s, of) * UNIT + exact_exp + 4.0 * UNIT * lse_size;
    let weight_error = 2.0 * score_error + exact_exp + lse_error;
    let p = scores.iter().map(|(score, _)| (score - lse).exp()).collect();
    Row { place, query, q, keys, p, weight_error, lse_error }
}

/// Error bound of a sum over keys or queries.
fn depth(s: &Attention, of: Arithmetic) -> f64 {
    of.products(s.nk.max(s.nq)) + 16.0
}

/// Relative error of a weight and of its product with a value.
fn relative_error(s: &Attention, of: Arithmetic, row: &Row<'_>) -> f64 {
    weight_rounding(of) + row.weight_error + depth(s, of) * UNIT
}

/// Adds the contribution of one query to the bounds of the forward pass.
fn forward_bounds(
    s: &Attention,
    of: Arithmetic,
    e: &mut Bounds,
    x: &Inputs<'_, f64>,
    row: &Row<'_>,
) {
    let [image, head, i] = row.place;
    e.lse[row.query] = row.lse_error;
    let (at, relative) = (s.rows(s.nq).at(s, image, head, i), relative_error(s, of, row));
    for (&j, p) in row.keys.iter().zip(&row.p) {
        add(&mut e.out[at..at + s.d], p * relative, x.v.row(s, image, head, j));
    }
}

/// Adds the contribution of one query to the bounds of the backward pass; those of `out` are known.
fn backward_bounds(
    s: &Attention,
    of: Arithmetic,
    e: &mut Bounds,
    x: &Inputs<'_, f64>,
    row: &Row<'_>,
    out: &[f64],
    dout: &[f64],
) {
    let Row { place: [image, head, i], query, q, keys, p, weight_error, .. } = row;
    let (d, scale, wide) = (s.d, 1.0 / (s.d as f64).sqrt(), weight_rounding(of));
    let at_q = s.rows(s.nq).at(s, *image, *head, *i);
    let at_k = |j: usize| s.rows(s.nk).at(s, *image, *head, j);
    let (g, relative) = (&dout[at_q..at_q + d], relative_error(s, of, row));
    // delta = dout . out, from the stored out
    let (out, out_error) = (&out[at_q..at_q + d], &e.out[at_q..at_q + d]);
    let mean = dot(g, out);
    let rounding = f64::from(if of.bf16 { bf16::ROUNDING } else { f32::ROUNDING });
    let stored_error = |(o, e): (&f64, &f64)| e + rounding * (o.abs() + e);
    let stored_error: Vec<f64> = out.iter().zip(out_error).map(stored_error).collect();
    let mean_error =
        dot_of_sizes(g, &stored_error) + (d as f64 + 2.0) * UNIT * dot_of_sizes(g, out);
    for (&j, p) in keys.iter().zip(p) {
        let value = x.v.row(s, *image, *head, j);
        add(&mut e.dv[at_k(j)..at_k(j) + d], p * relative, g);
        let dp = dot(g, value);
        let ds = p * (dp - mean);
        let dp_error = (of.products(d) + 2.0) * UNIT * dot_of_sizes(g, value);
        let error = p * (dp_error + mean_error) + ds.abs() * relative;
        // Second order: errors of the weight and of dp - mean together.
        let error = error * (1.0 + wide + weight_error);
        let key = x.k.row(s, *image, *head, j);
        add(&mut e.dq[at_q..at_q + d], error * scale, key);
        add(&mut e.dk[at_k(j)..at_k(j) + d], error * scale, q);
        if let Some(r) = &x.relative {
            let numbers = &mut e.drel[query * r.len()..];
            numbers[j / r.grid[1]] += error;
            numbers[r.grid[0] + j % r.grid[1]] += error;
        }
    }
}
