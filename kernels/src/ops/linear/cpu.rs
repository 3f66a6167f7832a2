//! Products of a linear layer.

use rayon::prelude::*;

use super::Linear;
use super::fused::{Input, Output, Weight};
use crate::ops::matmul::{Blocked, Finish, Left, MatMul, Right, Values};
use crate::{Real, Result, Write, f32s, f32s_mut};

/// Elements of `y` that a task fills with the bias.
const TASK: usize = 1 << 15;

/// `y = x weight^T + bias`.
pub fn forward<T: Real>(
    s: &Linear,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    let product = MatMul::new(s.n, s.m, s.k).trans_b();
    let Some(bias) = bias else { return product.run(1.0, x, weight, Write::Over, y) };
    if T::IS_F32 && product.blocked() {
        let (x, weight, bias) = (Input::Plain(f32s(x)), Weight::Full(f32s(weight)), f32s(bias));
        fused(s, x, weight, Some(bias), Output::Plain, f32s_mut(y));
        return Ok(());
    }
    let rows = TASK.checked_div(s.m).unwrap_or(1).max(1);
    y.par_chunks_mut(rows * s.m.max(1)).for_each(|y| {
        y.chunks_exact_mut(s.m.max(1)).for_each(|row| row.copy_from_slice(bias));
    });
    product.run(1.0, x, weight, Write::Add, y)
}

/// `dx = dy weight`.
pub fn dx<T: Real>(s: &Linear, weight: &[T], dy: &[T], dx: &mut [T]) -> Result<()> {
    MatMul::new(s.n, s.k, s.m).run(1.0, dy, weight, Write::Over, dx)
}

/// `dweight += dy^T x`.
pub fn dweight<T: Real>(s: &Linear, x: &[T], dy: &[T], dweight: &mut [T]) -> Result<()> {
    MatMul::new(s.m, s.k, s.n).trans_a().run(1.0, dy, x, Write::Add, dweight)
}

fn values<'a>(weight: Weight<'a, f32>) -> Values<'a> {
    match weight {
        Weight::Full(w) => Values::F32(w),
        Weight::Bf16(w) => Values::Bf16(w),
    }
}

/// `y = output(input weight^T + bias)`.
pub fn fused(
    s: &Linear,
    input: Input<'_, f32>,
    weight: Weight<'_, f32>,
    bias: Option<&[f32]>,
    output: Output<'_, f32>,
    y: &mut [f32],
) {
    let left = match input {
        Input::Plain(z) => Left::Rows(z),
        Input::Gelu(z) => Left::Gelu(z),
        Input::Normed(norm) => Left::Normed(norm),
    };
    let finish = match (output, bias) {
        (Output::Residual { x, gamma }, bias) => Finish::Residual { x, gamma, bias },
        (Output::Plain, Some(bias)) => Finish::Bias(bias),
        (Output::Plain, None) => Finish::Scale { alpha: 1.0, add: false },
    };
    let right = Right { values: values(weight), transposed: true };
    Blocked { n: s.n, m: s.m, k: s.k, left, right, finish }.run(y);
}

/// `dz = (dy gamma) weight`, times `gelu'(z)`.
pub fn fused_backward(
    s: &Linear,
    weight: Weight<'_, f32>,
    gamma: Option<&[f32]>,
    gelu: Option<&[f32]>,
    dy: &[f32],
    dz: &mut [f32],
) {
    let left = match gamma {
        Some(gamma) => Left::Scaled { x: dy, gamma },
        None => Left::Rows(dy),
    };
    let finish = match gelu {
        Some(z) => Finish::GeluSlope(z),
        None => Finish::Scale { alpha: 1.0, add: false },
    };
    let right = Right { values: values(weight), transposed: false };
    Blocked { n: s.n, m: s.k, k: s.m, left, right, finish }.run(dz);
}
