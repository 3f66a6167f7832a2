//! SwiGLU gate in plain loops: the reference implementation.

use super::{Backward, Forward, Swiglu, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Swiglu;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Swiglu, Forward { x, y }: Forward<'_, Host, U>) {
        for i in 0..s.n {
            for j in 0..s.h {
                let (u, v) = (x[2 * i * s.h + j], x[(2 * i + 1) * s.h + j]);
                y[i * s.h + j] = u * u.sigmoid() * v;
            }
        }
    }

    fn fast(s: &Swiglu, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Swiglu;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Swiglu, Backward { x, dy, dx }: Backward<'_, Host, U>) {
        for i in 0..s.n {
            for j in 0..s.h {
                let (a, b) = (2 * i * s.h + j, (2 * i + 1) * s.h + j);
                let (u, sig, g) = (x[a], x[a].sigmoid(), dy[i * s.h + j]);
                // y = u * sigmoid(u) * v
                dx[a] = g * x[b] * sig * (U::ONE + u * (U::ONE - sig));
                dx[b] = g * u * sig;
            }
        }
    }

    fn fast(s: &Swiglu, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
