//! Activations by their formulas: the reference implementation.

use std::f64::consts::{PI, SQRT_2};

use super::{Activation, Backward, Forward, Pointwise, QUICK, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;

fn normal<T: Real>(x: T) -> T {
    T::of(0.5) * (T::ONE + (x / T::of(SQRT_2)).erf())
}

/// Exact GELU.
pub(crate) fn gelu<T: Real>(x: T) -> T {
    x * normal(x)
}

/// Derivative of the exact GELU.
pub(crate) fn gelu_slope<T: Real>(x: T) -> T {
    // y = x * Phi(x)
    let density = (x * x * T::of(-0.5)).exp() / T::of((2.0 * PI).sqrt());
    normal(x) + x * density
}

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Pointwise;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    fn reference<U: Real>(s: &Pointwise, Forward { x, y }: Forward<'_, Host, U>) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = match s.f {
                Activation::Gelu => gelu(x),
                Activation::QuickGelu => x * (U::of(QUICK) * x).sigmoid(),
                Activation::Relu => x.max(U::ZERO),
            };
        }
    }

    fn fast(s: &Pointwise, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Pointwise;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    fn reference<U: Real>(s: &Pointwise, Backward { x, dy, dx }: Backward<'_, Host, U>) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            let slope = match s.f {
                Activation::Gelu => gelu_slope(x),
                // y = x sigmoid(z)
                Activation::QuickGelu => {
                    let z = U::of(QUICK) * x;
                    z.sigmoid() * (U::ONE + z * (-z).sigmoid())
                }
                // y = max(x, 0)
                Activation::Relu if x > U::ZERO => U::ONE,
                Activation::Relu => U::ZERO,
            };
            *dx = dy * slope;
        }
    }

    fn fast(s: &Pointwise, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }
}
