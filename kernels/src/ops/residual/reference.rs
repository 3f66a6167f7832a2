//! Residual connection in plain loops: the reference implementation.

use super::{Backward, Forward, GammaGradient, Residual, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Residual;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    /// `y = x + gamma * (r + bias)`.
    fn reference<U: Real>(s: &Residual, c: Forward<'_, Host, U>) {
        let Forward { x, r, bias, gamma, y } = c;
        for i in 0..s.n * s.c {
            let r = bias.map_or(r[i], |bias| r[i] + bias[i % s.c]);
            y[i] = x[i] + gamma.map_or(r, |gamma| gamma[i % s.c] * r);
        }
    }

    fn fast(s: &Residual, c: Forward<'_, Host, f32>) {
        match c.bias {
            None => cpu::forward(s, c),
            // Only devices fuse the bias of a product.
            Some(_) => Self::reference(s, c),
        }
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Residual;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    /// `dr = dy * gamma`.
    fn reference<U: Real>(s: &Residual, Backward { gamma, dy, dr }: Backward<'_, Host, U>) {
        for i in 0..s.n * s.c {
            dr[i] = gamma.map_or(dy[i], |gamma| dy[i] * gamma[i % s.c]);
        }
    }

    fn fast(s: &Residual, c: Backward<'_, Host, f32>) {
        cpu::dr(s, c);
    }
}

impl<M: Memory, T: Element> Call for GammaGradient<'_, M, T> {
    type Op = Residual;
    type At<'a, N: Memory, U: Element> = GammaGradient<'a, N, U>;

    /// `dgamma += sum_n dy * (r + bias)`.
    fn reference<U: Real>(s: &Residual, c: GammaGradient<'_, Host, U>) {
        let GammaGradient { r, bias, dy, dgamma } = c;
        for i in 0..s.n * s.c {
            // y[i] += gamma[i % c] * (r[i] + bias[i % c])
            dgamma[i % s.c] += dy[i] * bias.map_or(r[i], |bias| r[i] + bias[i % s.c]);
        }
    }

    fn fast(s: &Residual, c: GammaGradient<'_, Host, f32>) {
        let Some(bias) = c.bias else {
            cpu::dgamma(s, c);
            return;
        };
        let sum = |(i, r): (usize, &f32)| r + bias[i % s.c];
        let r: Vec<f32> = c.r.iter().enumerate().map(sum).collect();
        cpu::dgamma(s, GammaGradient { r: &r, bias: None, dy: c.dy, dgamma: c.dgamma });
    }
}
