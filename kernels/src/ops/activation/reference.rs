//! Activations by their formulas: the reference implementation.

use std::f64::consts::{PI, SQRT_2};

use super::{Activation, QUICK};
use crate::Real;

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

/// `y = f(x)`.
pub fn forward<T: Real>(f: Activation, x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = match f {
            Activation::Gelu => gelu(x),
            Activation::QuickGelu => x * (T::of(QUICK) * x).sigmoid(),
            Activation::Relu => x.max(T::ZERO),
        };
    }
}

/// `dx = dy f'(x)`.
pub fn backward<T: Real>(f: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
        let slope = match f {
            Activation::Gelu => gelu_slope(x),
            // y = x sigmoid(z)
            Activation::QuickGelu => {
                let z = T::of(QUICK) * x;
                z.sigmoid() * (T::ONE + z * (-z).sigmoid())
            }
            // y = max(x, 0)
            Activation::Relu if x > T::ZERO => T::ONE,
            Activation::Relu => T::ZERO,
        };
        *dx = dy * slope;
    }
}
