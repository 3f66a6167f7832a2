//! Per-pixel cross-entropy in plain loops: the reference implementation.

use super::{Backward, Forward, PixelLoss, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = PixelLoss;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &PixelLoss, c: Forward<'_, Host, U>) {
        let Forward { x, labels, lse, loss } = c;
        let mut sum = U::ZERO;
        for p in 0..s.b * s.n {
            let logit = |j: usize| x[s.at(p, j)];
            let top = (0..s.k).map(logit).fold(U::of(f64::NEG_INFINITY), Real::max);
            let total: U = (0..s.k).map(|j| (logit(j) - top).exp()).sum();
            lse[p] = top + total.ln();
            let y = usize::from(labels[p]);
            if y < s.k {
                sum += lse[p] - logit(y);
            }
        }
        loss[0] = sum * U::of(s.scale());
    }

    fn fast(s: &PixelLoss, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = PixelLoss;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &PixelLoss, c: Backward<'_, Host, U>) {
        let Backward { x, labels, lse, dloss, dx } = c;
        let scale = dloss[0] * U::of(s.scale());
        for p in 0..s.b * s.n {
            let y = usize::from(labels[p]);
            // sum += lse[p] - x[y, p]
            let d = if y < s.k { scale } else { U::ZERO };
            for j in 0..s.k {
                let hit = if j == y { U::ONE } else { U::ZERO };
                dx[s.at(p, j)] = d * ((x[s.at(p, j)] - lse[p]).exp() - hit);
            }
        }
    }

    fn fast(s: &PixelLoss, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
