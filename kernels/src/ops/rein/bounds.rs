//! Bounds of the errors of Rein. The error of a sum of n terms is [`Arithmetic::products`] times the
//! sum of their magnitudes. Kernels store intermediate values (S, X, Y, dX0, dz, s X) in the type of
//! the features, which rounds them by `u`.

use super::Rein;
use crate::check::UNIT;
use crate::check::checks::Arithmetic;
use crate::check::operands::Values;

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn sizes(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x * y).abs()).sum()
}

/// Column `k` of a matrix of `c` columns.
fn column(x: &[f64], c: usize, k: usize) -> Vec<f64> {
    x.iter().skip(k).step_by(c).copied().collect()
}

/// One patch: exact values and the largest errors of the intermediate values.
struct Patch<'a> {
    s: &'a Rein,
    of: Arithmetic,
    known: &'a Values,
    /// First element in the features.
    at: usize,
    /// Error of a softmax, relative to its result.
    softmax_error: f64,
    /// S with column 0; its errors before and after storing.
    weights: [Vec<f64>; 3],
    /// X; its errors before and after storing.
    mixed: [Vec<f64>; 3],
}

impl<'a> Patch<'a> {
    fn new(s: &'a Rein, of: Arithmetic, known: &'a Values, r: usize) -> Patch<'a> {
        let (c, m, u) = (s.c, s.m, of.rounding());
        let at = (r + (r / s.n + 1) * s.skip) * c;
        let (f, tokens, values) = (&known["f"][at..at + c], &known["tokens"], &known["values"]);
        let (token, by): (_, f64) = (|j: usize| &tokens[j * c..(j + 1) * c], s.score_scale());
        let z: Vec<f64> = (0..m).map(|j| dot(f, token(j)) * by).collect();
        let units = (of.products(c) + 12.0) * UNIT;
        let z_error: Vec<f64> = (0..m).map(|j| units * sizes(f, token(j)) * by).collect();
        let worst = z_error.iter().fold(0.0, |a: f64, b| a.max(*b));
        let softmax_error = 2.0 * worst + (m as f64 + 8.0) * UNIT + 0.5f64.powi(20);
        let lse = known["lse"][r];
        let weights: Vec<f64> =
            z.iter().map(|z| if s.softmax { (z - lse).exp() } else { *z }).collect();
        let relative = 2.0 * softmax_error + 4.0 * UNIT * lse.abs();
        let exact: Vec<f64> =
            (0..m).map(|j| if s.softmax { weights[j] * relative } else { z_error[j] }).collect();
        let s_error: Vec<f64> = (0..m).map(|j| exact[j] + u * weights[j].abs()).collect();
        let (mut mixed, mut x_error) = (f.to_vec(), vec![0.0; c]);
        for j in 1..m {
            for k in 0..c {
                let v = values[(j - 1) * c + k];
                mixed[k] += weights[j] * v;
                let sum = (of.products(m) + 2.0) * UNIT * weights[j].abs();
                x_error[k] += v.abs() * (s_error[j] + sum);
            }
        }
        let x_error: Vec<f64> =
            (0..c).map(|k| x_error[k] * (1.0 + u) + 2.0 * UNIT * mixed[k].abs()).collect();
        let stored_x: Vec<f64> = (0..c).map(|k| x_error[k] + u * mixed[k].abs()).collect();
        let (weights, mixed) = ([weights, exact, s_error], [mixed, x_error, stored_x]);
        Patch { s, of, known, at, softmax_error, weights, mixed }
    }

    /// Values of this patch in an operand with the shape of the features.
    fn row(&self, name: &'static str) -> &'a [f64] {
        &self.known[name][self.at..self.at + self.s.c]
    }

    /// s.
    fn by(&self) -> f64 {
        self.known["scale"][0]
    }

    /// Error of a sum over the channels.
    fn long(&self) -> f64 {
        (self.of.products(self.s.c) + 8.0) * UNIT
    }

    /// Error of a sum over the patches.
    fn rows(&self) -> f64 {
        (self.of.products(self.s.b * self.s.n) + 64.0) * UNIT
    }

    /// dX0 = G W_f as stored, and its error.
    fn dx0(&self) -> [Vec<f64>; 2] {
        let (g, u) = (self.row("dout"), self.of.rounding());
        let each = |k: usize| {
            let column = column(&self.known["weight"], self.s.c, k);
            let (dx0, error) = (dot(g, &column), self.long() * sizes(g, &column));
            (dx0, error + u * (dx0.abs() + error))
        };
        let (dx0, errors) = (0..self.s.c).map(each).unzip();
        [dx0, errors]
    }

    /// dz as stored, and its error.
    fn dz(&self, [dx0, d_error]: &[Vec<f64>; 2]) -> [Vec<f64>; 2] {
        let (s, c, m, u) = (self.s, self.s.c, self.s.m, self.of.rounding());
        let [weights, exact, _] = &self.weights;
        let (mut ds, mut ds_error) = (vec![0.0; m], vec![0.0; m]);
        for j in 1..m {
            let v = &self.known["values"][(j - 1) * c..j * c];
            ds[j] = self.by() * dot(dx0, v);
            ds_error[j] = self.by().abs() * (sizes(d_error, v) + self.long() * sizes(dx0, v));
        }
        let mean = dot(weights, &ds);
        let mean_error = sizes(weights, &ds_error)
            + sizes(exact, &ds)
            + (m as f64 + 8.0) * UNIT * sizes(weights, &ds);
        let score_scale: f64 = s.score_scale();
        let each = |j: usize| {
            let (v, error) = if s.softmax {
                let error = weights[j] * (ds_error[j] + mean_error)
                    + exact[j] * ((ds[j] - mean).abs() + ds_error[j] + mean_error)
                    + 4.0 * UNIT * weights[j] * (ds[j].abs() + mean.abs());
                (weights[j] * (ds[j] - mean), error)
            } else {
                (ds[j], ds_error[j] + 2.0 * UNIT * ds[j].abs())
            };
            (v * score_scale, (error * (1.0 + u) + u * v.abs()) * score_scale)
        };
        let (dz, errors) = (0..m).map(each).unzip();
        [dz, errors]
    }
}

/// Bounds of an output, which `add` forms from each patch; they begin at `least`.
fn summed(
    s: &Rein,
    of: Arithmetic,
    known: &Values,
    (output, least): (&'static str, f64),
    add: impl Fn(&Patch<'_>, &mut [f64]),
) -> Vec<f64> {
    let mut bounds = vec![least; known[output].len()];
    (0..s.b * s.n).for_each(|r| add(&Patch::new(s, of, known, r), &mut bounds));
    bounds
}

/// Bounds of `out`; skipped rows are exact.
pub fn out(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("out", 0.0), |patch, bounds| {
        let [mixed, _, stored_x] = &patch.mixed;
        let (by, u, f, bias) = (patch.by(), of.rounding(), patch.row("f"), &known["bias"]);
        for (i, w) in known["weight"].chunks_exact(s.c).enumerate() {
            let y = dot(mixed, w);
            let y_error = sizes(stored_x, w) + patch.long() * sizes(mixed, w);
            bounds[patch.at + i] = by.abs() * (y_error + u * (y.abs() + y_error))
                + 4.0 * UNIT * (by * (y.abs() + bias[i].abs()) + f[i].abs());
        }
    })
}

/// Bounds of `lse`.
pub fn lse(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    let bound = |(r, lse): (usize, &f64)| match s.softmax {
        true => Patch::new(s, of, known, r).softmax_error + 4.0 * UNIT * lse.abs(),
        false => 0.0,
    };
    known["lse"].iter().enumerate().map(bound).collect()
}

/// Bounds of `df`; skipped rows are exact.
pub fn df(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("df", 0.0), |patch, bounds| {
        let (dx0, by, g) = (patch.dx0(), patch.by(), patch.row("dout"));
        let dz = patch.dz(&dx0);
        let sum = (of.products(s.m) + 4.0) * UNIT;
        for k in 0..s.c {
            let column = column(&known["tokens"], s.c, k);
            let size = sizes(&dz[0], &column) + (by * dx0[0][k]).abs() + g[k].abs();
            bounds[patch.at + k] = by.abs() * dx0[1][k] + sizes(&dz[1], &column) + sum * size;
        }
    })
}

// The addition of a sum to the old gradient rounds once more.

/// Bounds of `dtokens`.
pub fn dtokens(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("dtokens", 2.0 * UNIT), |patch, bounds| {
        let ([dz, error], f) = (patch.dz(&patch.dx0()), patch.row("f"));
        for (i, bound) in bounds.iter_mut().enumerate() {
            let (j, k) = (i / s.c, i % s.c);
            *bound += f[k].abs() * (error[j] + patch.rows() * dz[j].abs());
        }
    })
}

/// Bounds of `dvalues`.
pub fn dvalues(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("dvalues", 2.0 * UNIT), |patch, bounds| {
        let ([weights, _, s_error], [dx0, d_error]) = (&patch.weights, patch.dx0());
        for (i, bound) in bounds.iter_mut().enumerate() {
            let (j, k) = (i / s.c + 1, i % s.c);
            let product = (weights[j] * dx0[k]).abs();
            let error = s_error[j] * (dx0[k].abs() + d_error[k]) + weights[j].abs() * d_error[k];
            *bound += patch.by().abs() * (error + patch.rows() * product);
        }
    })
}

/// Bounds of `dweight`, whose product may begin with the old gradient, below 1.
pub fn dweight(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    let old = (of.products(s.b * s.n) + 64.0) * UNIT;
    summed(s, of, known, ("dweight", old), |patch, bounds| {
        let ([mixed, _, stored_x], g) = (&patch.mixed, patch.row("dout"));
        for (i, bound) in bounds.iter_mut().enumerate() {
            let (g, k) = (g[i / s.c], i % s.c);
            // s X, stored
            let error = patch.by().abs() * stored_x[k] + UNIT * (patch.by() * mixed[k]).abs();
            *bound += g.abs() * error + patch.rows() * (g * patch.by() * mixed[k]).abs();
        }
    })
}

/// Bounds of `dbias`.
pub fn dbias(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("dbias", 2.0 * UNIT), |patch, bounds| {
        let g = patch.row("dout").iter();
        bounds.iter_mut().zip(g).for_each(|(b, g)| *b += patch.rows() * (patch.by() * g).abs());
    })
}

/// Bounds of `dscale`.
pub fn dscale(s: &Rein, of: Arithmetic, known: &Values) -> Vec<f64> {
    summed(s, of, known, ("dscale", 2.0 * UNIT), |patch, bounds| {
        let ([mixed, x_error, _], [dx0, d_error]) = (&patch.mixed, patch.dx0());
        let (bias, g, long) = (&known["bias"], patch.row("dout"), s.c as f64 * UNIT);
        for k in 0..s.c {
            bounds[0] += mixed[k].abs() * d_error[k]
                + x_error[k] * (dx0[k].abs() + d_error[k])
                + patch.rows().max(long)
                    * 2.0
                    * ((mixed[k] * dx0[k]).abs() + (bias[k] * g[k]).abs());
        }
    })
}
