//! Linear layer in plain loops: the reference implementation.

use super::Linear;
use super::fused::{Input, Output, Weight};
use crate::Real;
use crate::ops::activation::reference::{gelu, gelu_slope};

/// `y = x weight^T + bias`.
pub fn forward<T: Real>(s: &Linear, x: &[T], weight: &[T], bias: Option<&[T]>, y: &mut [T]) {
    for i in 0..s.n {
        for j in 0..s.m {
            let mut sum = bias.map_or(T::ZERO, |bias| bias[j]);
            for l in 0..s.k {
                sum += x[i * s.k + l] * weight[j * s.k + l];
            }
            y[i * s.m + j] = sum;
        }
    }
}

/// Writes `dx` and adds to `dweight` and `dbias`.
pub fn backward<T: Real>(
    s: &Linear,
    x: &[T],
    weight: &[T],
    dy: &[T],
    dx: &mut [T],
    dweight: &mut [T],
    dbias: &mut [T],
) {
    dx.fill(T::ZERO);
    for i in 0..s.n {
        for j in 0..s.m {
            let g = dy[i * s.m + j];
            dbias[j] += g;
            // y[i, j] += x[i, l] * weight[j, l]
            for l in 0..s.k {
                dx[i * s.k + l] += g * weight[j * s.k + l];
                dweight[j * s.k + l] += g * x[i * s.k + l];
            }
        }
    }
}

impl<T: Real> Weight<'_, T> {
    fn at(&self, i: usize) -> T {
        match self {
            Self::Full(w) => w[i],
            Self::Bf16(w) => T::of(w[i].to_f64()),
        }
    }
}

/// `y = output(input weight^T + bias)`.
pub fn fused<T: Real>(
    s: &Linear,
    input: Input<'_, T>,
    weight: Weight<'_, T>,
    bias: Option<&[T]>,
    output: Output<'_, T>,
    y: &mut [T],
) {
    let operand = |i: usize, l: usize| match input {
        Input::Plain(z) => z[i * s.k + l],
        Input::Gelu(z) => gelu(z[i * s.k + l]),
        Input::Normed(n) => (n.z[i * s.k + l] - n.mean[i]) * n.rstd[i] * n.weight[l] + n.bias[l],
    };
    for i in 0..s.n {
        let row: Vec<T> = (0..s.k).map(|l| operand(i, l)).collect();
        for j in 0..s.m {
            let mut v = bias.map_or(T::ZERO, |bias| bias[j]);
            for l in 0..s.k {
                v += row[l] * weight.at(j * s.k + l);
            }
            y[i * s.m + j] = match output {
                Output::Plain => v,
                Output::Residual { x, gamma } => {
                    x[i * s.m + j] + gamma.map_or(T::ONE, |gamma| gamma[j]) * v
                }
            };
        }
    }
}

/// `dz = (dy gamma) weight`, times `gelu'(z)`.
pub fn fused_backward<T: Real>(
    s: &Linear,
    weight: Weight<'_, T>,
    gamma: Option<&[T]>,
    gelu: Option<&[T]>,
    dy: &[T],
    dz: &mut [T],
) {
    for i in 0..s.n {
        for l in 0..s.k {
            let mut sum = T::ZERO;
            for j in 0..s.m {
                // y[i, j] = x + gamma[j] f(z[i, l]) weight[j, l]
                let g = dy[i * s.m + j] * gamma.map_or(T::ONE, |gamma| gamma[j]);
                sum += g * weight.at(j * s.k + l);
            }
            dz[i * s.k + l] = sum * gelu.map_or(T::ONE, |z| gelu_slope(z[i * s.k + l]));
        }
    }
}
