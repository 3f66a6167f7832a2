//! Rein in plain loops: the reference implementation.

use super::{Backward, Forward, Rein, cost, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;

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
fn scores<T: Real>(s: &Rein, f: &[T], tokens: &[T]) -> Vec<T> {
    tokens.chunks_exact(s.c).map(|t| dot(f, t) * s.score_scale()).collect()
}

/// X = f + S[:, 1:] V
fn mixed<T: Real>(s: &Rein, f: &[T], values: &[T], weights: &[T]) -> Vec<T> {
    let mut x = f.to_vec();
    for (&a, v) in weights[1..].iter().zip(values.chunks_exact(s.c)) {
        add(&mut x, a, v);
    }
    x
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Rein;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Rein, c: Forward<'_, Host, U>) {
        let Forward { f, tokens, values, weight, bias, scale, out, lse } = c;
        out.copy_from_slice(f);
        for r in 0..s.b * s.n {
            let row = row(s, f, r);
            let mut weights = scores(s, &f[row.clone()], tokens);
            lse[r] = U::ZERO;
            if s.softmax {
                let top = weights.iter().copied().fold(weights[0], U::max);
                lse[r] = top + weights.iter().map(|&z| (z - top).exp()).sum::<U>().ln();
                weights.iter_mut().for_each(|z| *z = (*z - lse[r]).exp());
            }
            let x = mixed(s, &f[row.clone()], values, &weights);
            for (i, o) in out[row].iter_mut().enumerate() {
                *o += scale[0] * (dot(&x, &weight[i * s.c..(i + 1) * s.c]) + bias[i]);
            }
        }
    }

    fn fast(s: &Rein, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &Rein, _c: &Forward<'_, Host, U>) -> Cost {
        cost::forward(s)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Rein;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Rein, call: Backward<'_, Host, U>) {
        let Backward { f, tokens, values, weight, bias, scale, lse, dout, .. } = call;
        let Backward {
            mut df, mut dtokens, mut dvalues, mut dweight, mut dbias, mut dscale, ..
        } = call;
        let (c, scale) = (s.c, scale[0]);
        if let Some(df) = &mut df {
            df.copy_from_slice(dout);
        }
        for r in 0..s.b * s.n {
            let row = row(s, f, r);
            let (f, g) = (&f[row.clone()], &dout[row.clone()]);
            let mut weights = scores(s, f, tokens);
            if s.softmax {
                weights.iter_mut().for_each(|z| *z = (*z - lse[r]).exp());
            }
            let x = mixed(s, f, values, &weights);
            // out = f + scale (X W_f^T + b_f)
            let mut dx = vec![U::ZERO; c];
            for (i, &g) in g.iter().enumerate() {
                add(&mut dx, g, &weight[i * c..(i + 1) * c]);
                if let Some(d) = &mut dweight {
                    add(&mut d[i * c..(i + 1) * c], scale * g, &x);
                }
            }
            if let Some(d) = &mut dscale {
                d[0] += dot(&x, &dx) + dot(bias, g);
            }
            if let Some(d) = &mut dbias {
                add(d, scale, g);
            }
            dx.iter_mut().for_each(|d| *d *= scale);
            // X = f + S[:, 1:] V
            let mut dz: Vec<U> = vec![U::ZERO];
            dz.extend(values.chunks_exact(c).map(|v| dot(&dx, v)));
            if let Some(d) = &mut dvalues {
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
                if let Some(d) = &mut dtokens {
                    add(&mut d[j * c..(j + 1) * c], dz, f);
                }
                add(&mut dx, dz, &tokens[j * c..(j + 1) * c]);
            }
            if let Some(df) = &mut df {
                add(&mut df[row], U::ONE, &dx);
            }
        }
    }

    fn fast(s: &Rein, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    fn cost<U: Real>(s: &Rein, _c: &Backward<'_, Host, U>) -> Cost {
        cost::backward(s)
    }
}
