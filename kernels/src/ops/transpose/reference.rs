//! Transposition in plain loops: the reference implementation.

use super::{Forward, Transpose, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Transpose;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Transpose, Forward { x, y }: Forward<'_, Host, U>) {
        for b in 0..s.b {
            for i in 0..s.n {
                for j in 0..s.m {
                    y[(b * s.m + j) * s.n + i] = x[(b * s.n + i) * s.m + j];
                }
            }
        }
    }

    fn fast(s: &Transpose, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}
