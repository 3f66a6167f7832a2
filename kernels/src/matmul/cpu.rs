//! Products through the `gemm` crate: the batch spread over threads, large products split within.

use gemm::Parallelism;
use rayon::prelude::*;

use super::{Beta, MatMul};
use crate::Real;

/// Multiply-adds below which a thread is not worth waking.
const TASK: usize = 1 << 18;

/// Where the operands of one product begin.
#[derive(Clone, Copy)]
struct Operands<T> {
    a: *const T,
    b: *const T,
    c: *mut T,
}

// SAFETY: `run` hands out operands whose outputs do not overlap; the inputs are only read.
unsafe impl<T: Sync> Sync for Operands<T> {}

impl<T> Operands<T> {
    /// The operands of product `p`.
    ///
    /// # Safety
    /// `p` is below the batch size of `s`, whose lengths have been checked.
    unsafe fn of(&self, s: &MatMul, p: usize) -> Self {
        // SAFETY: the caller's promise keeps every start inside its slice.
        unsafe {
            Self {
                a: self.a.add(p * s.stride_a),
                b: self.b.add(p * s.stride_b),
                c: self.c.add(p * s.stride_c),
            }
        }
    }
}

/// The product; lengths and the distance of outputs have been checked.
pub fn run<T: Real>(s: &MatMul, alpha: T, a: &[T], b: &[T], beta: Beta, c: &mut [T]) {
    if s.batch == 0 && s.stride_c == 0 && beta == Beta::Overwrite {
        c.fill(T::ZERO);
    }
    if s.batch == 0 || s.n * s.m == 0 {
        return;
    }
    let at = Operands { a: a.as_ptr(), b: b.as_ptr(), c: c.as_mut_ptr() };
    let work = s.n * s.m * s.k;
    // How the work is cut changes who computes a sum, never how.
    let threads = rayon::current_num_threads();
    let within = threads > 1 && work >= TASK;
    if s.batch == 1 || s.stride_c == 0 || (within && s.batch < 2 * threads) {
        let inside = if within { Parallelism::Rayon(0) } else { Parallelism::None };
        for p in 0..s.batch {
            let beta = if p > 0 && s.stride_c == 0 { Beta::Add } else { beta };
            // SAFETY: `p < batch`; one product at a time writes to c.
            unsafe { product(s, alpha, at.of(s, p), beta, inside) };
        }
        return;
    }
    let at = &at;
    (0..s.batch).into_par_iter().with_min_len(TASK.div_ceil(work.max(1))).for_each(|p| {
        // SAFETY: `p < batch`, and outputs lie at least n * m apart.
        unsafe { product(s, alpha, at.of(s, p), beta, Parallelism::None) };
    });
}

/// One product.
///
/// # Safety
/// `at` points to `n k`, `k m` and `n m` elements; nobody else touches those of `c`.
unsafe fn product<T: Real>(
    s: &MatMul,
    alpha: T,
    at: Operands<T>,
    beta: Beta,
    parallelism: Parallelism,
) {
    let step = |transposed: bool, rows: usize, columns: usize| {
        let (row, column) = if transposed { (1, rows) } else { (columns, 1) };
        (row as isize, column as isize)
    };
    let (a_row, a_col) = step(s.trans_a, s.n, s.k);
    let (b_row, b_col) = step(s.trans_b, s.k, s.m);
    // The crate calls the factor of the old contents alpha and that of the product beta.
    // SAFETY: the strides describe the layouts that the caller vouches for.
    unsafe {
        gemm::gemm(
            s.n,
            s.m,
            s.k,
            at.c,
            1,
            s.m as isize,
            beta == Beta::Add,
            at.a,
            a_col,
            a_row,
            at.b,
            b_col,
            b_row,
            T::ONE,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
