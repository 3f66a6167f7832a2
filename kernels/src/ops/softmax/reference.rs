//! Softmax by its formulas: the reference implementation.

use super::{Backward, Forward, Softmax, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Softmax;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Softmax, Forward { x, y }: Forward<'_, Host, U>) {
        for (x, y) in x.chunks_exact(s.c).zip(y.chunks_exact_mut(s.c)) {
            let top = x.iter().copied().fold(x[0], U::max);
            let total: U = x.iter().map(|&x| (x - top).exp()).sum();
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - top).exp() / total;
            }
        }
    }

    fn fast(s: &Softmax, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Softmax;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Softmax, Backward { y, dy, dx }: Backward<'_, Host, U>) {
        let rows = y.chunks_exact(s.c).zip(dy.chunks_exact(s.c));
        for ((y, dy), dx) in rows.zip(dx.chunks_exact_mut(s.c)) {
            // y = exp(x - top) / total
            let mean: U = y.iter().zip(dy).map(|(&y, &dy)| y * dy).sum();
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - mean);
            }
        }
    }

    fn fast(s: &Softmax, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
