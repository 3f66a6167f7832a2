//! Rein in plain loops: the reference implementation.

use super::{Gradients, Rein, Weights};
use crate::Real;

fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    x.iter().zip(y).map(|(&x, &y)| x * y).sum()
}

fn add<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    to.iter_mut().zip(from).for_each(|(t, &f)| *t += factor * f);
}

/// First element of patch row `r`, counted over all images.
fn row<T>(s: &Rein, x: &[T], r: usize) -> std::ops::Range<usize> {
    let at = (r + (r / s.n + 1) * s.skip) * s.c;
    debug_assert!(at + s.c <= x.len());
    at..at + s.c
}

/// Scores of one patch against the tokens.
fn scores<T: Real>(s: &Rein, f: &[T], w: &Weights<'_, T>) -> Vec<T> {
    w.tokens.chunks_exact(s.c).map(|t| dot(f, t) * s.score_scale()).collect()
}

/// X = f + S[:, 1:] V
fn mixed<T: Real>(s: &Rein, f: &[T], w: &Weights<'_, T>, weights: &[T]) -> Vec<T> {
    let mut x = f.to_vec();
    for (&a, v) in weights[1..].iter().zip(w.values.chunks_exact(s.c)) {
        add(&mut x, a, v);
    }
    x
}

pub fn forward<T: Real>(s: &Rein, f: &[T], w: Weights<'_, T>, out: &mut [T], lse: &mut [T]) {
    out.copy_from_slice(f);
    for r in 0..s.b * s.n {
        let row = row(s, f, r);
        let mut weights = scores(s, &f[row.clone()], &w);
        lse[r] = T::ZERO;
        if s.softmax {
            let top = weights.iter().copied().fold(weights[0], T::max);
            lse[r] = top + weights.iter().map(|&z| (z - top).exp()).sum::<T>().ln();
            weights.iter_mut().for_each(|z| *z = (*z - lse[r]).exp());
        }
        let x = mixed(s, &f[row.clone()], &w, &weights);
        for (i, o) in out[row].iter_mut().enumerate() {
            *o += w.scale[0] * (dot(&x, &w.weight[i * s.c..(i + 1) * s.c]) + w.bias[i]);
        }
    }
}

pub fn backward<T: Real>(
    s: &Rein,
    f: &[T],
    w: Weights<'_, T>,
    lse: &[T],
    dout: &[T],
    mut d: Gradients<'_, T>,
) {
    let (c, scale) = (s.c, w.scale[0]);
    if let Some(df) = &mut d.df {
        df.copy_from_slice(dout);
    }
    for r in 0..s.b * s.n {
        let row = row(s, f, r);
        let (f, g) = (&f[row.clone()], &dout[row.clone()]);
        let mut weights = scores(s, f, &w);
        if s.softmax {
            weights.iter_mut().for_each(|z| *z = (*z - lse[r]).exp());
        }
        let x = mixed(s, f, &w, &weights);
        // out = f + scale (X W_f^T + b_f)
        let mut dx = vec![T::ZERO; c];
        for (i, &g) in g.iter().enumerate() {
            add(&mut dx, g, &w.weight[i * c..(i + 1) * c]);
            if let Some(d) = &mut d.dweight {
                add(&mut d[i * c..(i + 1) * c], scale * g, &x);
            }
        }
        if let Some(d) = &mut d.dscale {
            d[0] += dot(&x, &dx) + dot(w.bias, g);
        }
        if let Some(d) = &mut d.dbias {
            add(d, scale, g);
        }
        dx.iter_mut().for_each(|d| *d *= scale);
        // X = f + S[:, 1:] V
        let mut dz: Vec<T> = vec![T::ZERO];
        dz.extend(w.values.chunks_exact(c).map(|v| dot(&dx, v)));
        if let Some(d) = &mut d.dvalues {
            for (d, &a) in d.chunks_exact_mut(c).zip(&weights[1..]) {
                add(d, a, &dx);
            }
        }
        // S = softmax(z)
        if s.softmax {
            let mean = dot(&weights, &dz);
            dz.iter_mut().zip(&weights).for_each(|(d, &a)| *d = a * (*d - mean));
        }
        // z = f T^T / sqrt(c)
        for (j, &dz) in dz.iter().enumerate() {
            let dz = dz * s.score_scale();
            if let Some(d) = &mut d.dtokens {
                add(&mut d[j * c..(j + 1) * c], dz, f);
            }
            add(&mut dx, dz, &w.tokens[j * c..(j + 1) * c]);
        }
        if let Some(df) = &mut d.df {
            add(&mut df[row], T::ONE, &dx);
        }
    }
}
