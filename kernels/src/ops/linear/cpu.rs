//! Products of a linear layer in f32.

use rayon::prelude::*;

use super::fused::{Input, Output, Weight};
use super::{Backward, Forward, Linear, ParameterGradients};
use crate::Write;
use crate::call::Host;
use crate::ops::add::add_column_sums;
use crate::ops::matmul::{Blocked, Finish, Left, Right, Values, multiply};

/// Elements of `y` that a task fills with the bias.
const TASK: usize = 1 << 15;

pub fn forward(s: &Linear, Forward { x, weight, bias, y }: Forward<'_, Host, f32>) {
    let product = s.product_of_y();
    let Some(bias) = bias else {
        multiply(&product, 1.0, x, weight, Write::Over, y);
        return;
    };
    if product.blocked() {
        fused(s, Input::Plain(x), Weight::Full(weight), Some(bias), Output::Plain, y);
        return;
    }
    let rows = TASK.checked_div(s.m).unwrap_or(1).max(1);
    y.par_chunks_mut(rows * s.m.max(1)).for_each(|y| {
        y.chunks_exact_mut(s.m.max(1)).for_each(|row| row.copy_from_slice(bias));
    });
    multiply(&product, 1.0, x, weight, Write::Add, y);
}

pub fn backward(s: &Linear, Backward { weight, dy, dx }: Backward<'_, Host, f32>) {
    multiply(&s.product_of_dx(), 1.0, dy, weight, Write::Over, dx);
}

pub fn parameters(s: &Linear, c: ParameterGradients<'_, Host, f32>) {
    if let (Some(x), Some(dweight)) = (c.x, c.dweight) {
        multiply(&s.product_of_dweight(), 1.0, c.dy, x, Write::Add, dweight);
    }
    if let Some(dbias) = c.dbias {
        add_column_sums(s.m, c.dy, dbias);
    }
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
