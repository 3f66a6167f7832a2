//! SwiGLU gate in plain loops: the reference implementation.

use super::Swiglu;
use crate::Real;

pub fn forward<T: Real>(s: &Swiglu, x: &[T], y: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.h {
            let (u, v) = (x[2 * i * s.h + j], x[(2 * i + 1) * s.h + j]);
            y[i * s.h + j] = u * u.sigmoid() * v;
        }
    }
}

pub fn backward<T: Real>(s: &Swiglu, x: &[T], dy: &[T], dx: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.h {
            let (a, b) = (2 * i * s.h + j, (2 * i + 1) * s.h + j);
            let (u, sig, g) = (x[a], x[a].sigmoid(), dy[i * s.h + j]);
            // y = u * sigmoid(u) * v
            dx[a] = g * x[b] * sig * (T::ONE + u * (T::ONE - sig));
            dx[b] = g * u * sig;
        }
    }
}
