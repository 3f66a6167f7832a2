//! Linear layer in plain loops: the reference implementation.

use super::fused::{Input, Output, Weight};
use super::{Backward, Forward, ForwardRelu, Linear, ParameterGradients, cpu};
use crate::Real;
use crate::call::{Call, Host, Memory};
use crate::device::Element;
use crate::dry_run::Cost;
use crate::ops::activation::reference::{gelu, gelu_slope};
use crate::ops::matmul;

impl<M: Memory, T: Element> Call for Forward<'_, M, T> {
    type Op = Linear;
    type At<'a, N: Memory, U: Element> = Forward<'a, N, U>;

    /// `y = x weight^T + bias`.
    fn reference<U: Real>(s: &Linear, Forward { x, weight, bias, y }: Forward<'_, Host, U>) {
        for i in 0..s.n {
            for j in 0..s.m {
                let mut sum = bias.map_or(U::ZERO, |bias| bias[j]);
                for l in 0..s.k {
                    sum += x[i * s.k + l] * weight[j * s.k + l];
                }
                y[i * s.m + j] = sum;
            }
        }
    }

    fn fast(s: &Linear, c: Forward<'_, Host, f32>) {
        cpu::forward(s, c);
    }

    fn cost<U: Real>(s: &Linear, _c: &Forward<'_, Host, U>) -> Cost {
        matmul::cost(s.n, s.m, s.k)
    }
}

impl<M: Memory, T: Element> Call for ForwardRelu<'_, M, T> {
    type Op = Linear;
    type At<'a, N: Memory, U: Element> = ForwardRelu<'a, N, U>;

    /// `y = max(x weight^T + bias, 0)`.
    fn reference<U: Real>(s: &Linear, c: ForwardRelu<'_, Host, U>) {
        let ForwardRelu { x, weight, bias, y } = c;
        Forward::<Host, U>::reference(s, Forward { x, weight, bias: Some(bias), y: &mut *y });
        y.iter_mut().for_each(|y| *y = Real::max(*y, U::ZERO));
    }

    fn fast(s: &Linear, ForwardRelu { x, weight, bias, y }: ForwardRelu<'_, Host, f32>) {
        cpu::forward(s, Forward { x, weight, bias: Some(bias), y: &mut *y });
        y.iter_mut().for_each(|y| *y = y.max(0.0));
    }

    fn cost<U: Real>(s: &Linear, _c: &ForwardRelu<'_, Host, U>) -> Cost {
        matmul::cost(s.n, s.m, s.k)
    }
}

impl<M: Memory, T: Element> Call for Backward<'_, M, T> {
    type Op = Linear;
    type At<'a, N: Memory, U: Element> = Backward<'a, N, U>;

    /// `dx = dy weight`.
    fn reference<U: Real>(s: &Linear, Backward { weight, dy, dx }: Backward<'_, Host, U>) {
        dx.fill(U::ZERO);
        for i in 0..s.n {
            for j in 0..s.m {
                // y[i, j] += x[i, l] * weight[j, l]
                for l in 0..s.k {
                    dx[i * s.k + l] += dy[i * s.m + j] * weight[j * s.k + l];
                }
            }
        }
    }

    fn fast(s: &Linear, c: Backward<'_, Host, f32>) {
        cpu::backward(s, c);
    }

    fn cost<U: Real>(s: &Linear, _c: &Backward<'_, Host, U>) -> Cost {
        s.product_of_dx().cost::<U>()
    }
}

impl<M: Memory, T: Element> Call for ParameterGradients<'_, M, T> {
    type Op = Linear;
    type At<'a, N: Memory, U: Element> = ParameterGradients<'a, N, U>;

    /// `dweight += dy^T x`, `dbias += sum_n dy`.
    fn reference<U: Real>(s: &Linear, c: ParameterGradients<'_, Host, U>) {
        let ParameterGradients { x, dy, mut dweight, mut dbias } = c;
        for i in 0..s.n {
            for j in 0..s.m {
                let g = dy[i * s.m + j];
                if let Some(dbias) = &mut dbias {
                    dbias[j] += g;
                }
                if let (Some(x), Some(dweight)) = (x, &mut dweight) {
                    // y[i, j] += x[i, l] * weight[j, l]
                    for l in 0..s.k {
                        dweight[j * s.k + l] += g * x[i * s.k + l];
                    }
                }
            }
        }
    }

    fn fast(s: &Linear, c: ParameterGradients<'_, Host, f32>) {
        cpu::parameters(s, c);
    }

    fn cost<U: Real>(s: &Linear, c: &ParameterGradients<'_, Host, U>) -> Cost {
        let product = |_: &&mut [U]| s.product_of_dweight().cost::<U>();
        c.dweight.as_ref().map_or(Cost::default(), product)
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
