//! Vectorised activations in f32, split over threads.

use rayon::prelude::*;

use super::{Activation, Backward, Forward, Pointwise};
use crate::call::Host;
use crate::cpu::logistic::sigmoid;
use crate::cpu::simd::{exp, madd};
use crate::simd;

const QUICK: f32 = super::QUICK as f32;

/// Elements per task.
const TASK: usize = 1 << 13;

/// Coefficients of `exp(z^2) erfc(z) / t` in powers of `t = 1 / (1 + 0.3 z)`, highest first.
const TAIL: [f32; 9] = [
    -0.129_440_79,
    0.485_129_37,
    -0.511_295_1,
    0.546_474_18,
    -0.093_686_24,
    0.214_459_76,
    0.148_476_44,
    0.170_692_77,
    0.169_189_57,
];

/// `1 - Phi(|x|)` and `exp(-x^2 / 2)`.
#[inline(always)]
fn tail<const FMA: bool>(x: f32) -> (f32, f32) {
    let t = 1.0 / madd::<FMA>(x.abs(), 0.3 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut p = TAIL[0];
    for c in &TAIL[1..] {
        p = madd::<FMA>(p, t, *c);
    }
    let e = exp::<FMA>(-0.5 * x * x);
    (0.5 * e * t * p, e)
}

/// Exact GELU.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    let (tail, _) = tail::<FMA>(x);
    x.max(0.0) - x.abs() * tail
}

/// Derivative of the exact GELU.
#[inline(always)]
pub(crate) fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3;
    let (tail, e) = tail::<FMA>(x);
    let normal = if x < 0.0 { tail } else { 1.0 - tail };
    madd::<FMA>(x * DENSITY, e, normal)
}

simd! {
    fn gelu_all<FMA>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = gelu::<FMA>(x);
        }
    }

    fn gelu_backward<FMA>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = dy * gelu_slope::<FMA>(x);
        }
    }

    fn quick_gelu<FMA>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid::<FMA>(QUICK * x);
        }
    }

    fn quick_gelu_backward<FMA>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            let z = QUICK * x;
            *dx = dy * (sigmoid::<FMA>(z) * madd::<FMA>(z, sigmoid::<FMA>(-z), 1.0));
        }
    }

    fn relu<FMA>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if 0.0 > x { 0.0 } else { x };
        }
    }

    fn relu_backward<FMA>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = if x > 0.0 { dy } else { 0.0 };
        }
    }
}

pub fn forward(s: &Pointwise, Forward { x, y }: Forward<'_, Host, f32>) {
    let piece = match s.f {
        Activation::Gelu => gelu_all,
        Activation::QuickGelu => quick_gelu,
        Activation::Relu => relu,
    };
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| piece(x, y));
}

pub fn backward(s: &Pointwise, Backward { x, dy, dx }: Backward<'_, Host, f32>) {
    let piece = match s.f {
        Activation::Gelu => gelu_backward,
        Activation::QuickGelu => quick_gelu_backward,
        Activation::Relu => relu_backward,
    };
    dx.par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK).zip(dy.par_chunks(TASK)))
        .for_each(|(dx, (x, dy))| piece(x, dy, dx));
}
