//! The three products of a linear layer.

use rayon::prelude::*;

use super::Linear;
use crate::matmul::{Beta, MatMul};
use crate::{Real, Result};

/// Elements of `y` a task fills with the bias.
const TASK: usize = 1 << 15;

/// `y = x weight^T + bias`.
pub fn forward<T: Real>(
    s: &Linear,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) -> Result<()> {
    let beta = match bias {
        Some(bias) if s.m > 0 => {
            y.par_chunks_mut((TASK / s.m).max(1) * s.m).for_each(|y| {
                y.chunks_exact_mut(s.m).for_each(|row| row.copy_from_slice(bias));
            });
            Beta::Add
        }
        _ => Beta::Overwrite,
    };
    MatMul::new(s.n, s.m, s.k).trans_b().run(1.0, x, weight, beta, y)
}

/// `dx = dy weight`.
pub fn dx<T: Real>(s: &Linear, weight: &[T], dy: &[T], dx: &mut [T]) -> Result<()> {
    MatMul::new(s.n, s.k, s.m).run(1.0, dy, weight, Beta::Overwrite, dx)
}

/// `dweight += dy^T x`.
pub fn dweight<T: Real>(s: &Linear, x: &[T], dy: &[T], dweight: &mut [T]) -> Result<()> {
    MatMul::new(s.m, s.k, s.n).trans_a().run(1.0, dy, x, Beta::Add, dweight)
}
