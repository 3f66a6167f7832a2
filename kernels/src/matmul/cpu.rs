//! The batch spread over threads, large products split within; each product by our own kernel or the `gemm` crate.

use gemm::Parallelism;
use rayon::prelude::*;

use super::MatMul;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use crate::Real;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Level, level};

/// Multiply-adds below which a thread is not worth waking.
const TASK: usize = 1 << 18;
/// Multiply-adds below which packing operands does not pay.
#[cfg(target_arch = "x86_64")]
const PACK: usize = 1 << 15;

/// What the sum of a product is added to.
#[derive(Clone, Copy)]
pub enum Start<T> {
    /// Nothing; `c` is not read.
    Overwrite,
    /// The old contents.
    Add,
    /// One row of `m` elements for all rows of `c`, which is not read.
    Row(*const T),
}

// SAFETY: the row is only read, and outlives the call that it is given to.
unsafe impl<T: Sync> Sync for Start<T> {}

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
pub fn run<T: Real>(s: &MatMul, alpha: T, a: &[T], b: &[T], start: Start<T>, c: &mut [T]) {
    if s.batch == 0 && s.stride_c == 0 && matches!(start, Start::Overwrite) {
        c.fill(T::ZERO);
    }
    if s.batch == 0 || s.n * s.m == 0 {
        return;
    }
    let at = Operands { a: a.as_ptr(), b: b.as_ptr(), c: c.as_mut_ptr() };
    let work = s.n * s.m * s.k;
    let threads = rayon::current_num_threads();
    // How the work is cut changes who computes a sum, never how.
    let within = threads > 1 && work >= TASK;
    if s.batch == 1 || s.stride_c == 0 || (within && s.batch < 2 * threads) {
        for p in 0..s.batch {
            let start = if p > 0 && s.stride_c == 0 { Start::Add } else { start };
            // SAFETY: `p < batch`; one product at a time writes to c.
            unsafe { product(s, alpha, at.of(s, p), start, within) };
        }
        return;
    }
    let (at, start) = (&at, &start);
    (0..s.batch).into_par_iter().with_min_len(TASK.div_ceil(work.max(1))).for_each(|p| {
        // SAFETY: `p < batch`, and outputs lie at least n * m apart.
        unsafe { product(s, alpha, at.of(s, p), *start, false) };
    });
}

/// Strides of a row and of a column of a matrix stored `[rows, columns]` or transposed.
fn layout(transposed: bool, rows: usize, columns: usize) -> (usize, usize) {
    if transposed { (1, rows) } else { (columns, 1) }
}

/// One product.
///
/// # Safety
/// `at` points to `n k`, `k m` and `n m` elements, a row in `start` to `m`; nobody else touches those of `c`.
unsafe fn product<T: Real>(s: &MatMul, alpha: T, at: Operands<T>, start: Start<T>, parallel: bool) {
    #[cfg(target_arch = "x86_64")]
    if T::IS_F32 && level() == Level::Avx512 && s.n * s.m * s.k >= PACK {
        let (row, column) = layout(s.trans_a, s.n, s.k);
        let a = avx512::Operand { at: at.a.cast(), row, column };
        let (row, column) = layout(s.trans_b, s.k, s.m);
        let b = avx512::Operand { at: at.b.cast(), row, column };
        let start = match start {
            Start::Overwrite => avx512::Start::Overwrite,
            Start::Add => avx512::Start::Add,
            Start::Row(row) => avx512::Start::Row(row.cast()),
        };
        let (n, m, k, alpha) = (s.n, s.m, s.k, alpha.f64() as f32);
        let product = avx512::Product { n, m, k, alpha, a, b, c: at.c.cast(), start, parallel };
        // SAFETY: T is f32, `level` has found the instructions, and the strides describe what the caller vouches for.
        unsafe { avx512::run(&product) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { elsewhere(s, alpha, at, start, parallel) };
}

/// One product by the `gemm` crate.
///
/// # Safety
/// As [`product`].
unsafe fn elsewhere<T: Real>(
    s: &MatMul,
    alpha: T,
    at: Operands<T>,
    start: Start<T>,
    parallel: bool,
) {
    if let Start::Row(row) = start {
        for i in 0..s.n {
            // SAFETY: row i of c, and a row of the same length.
            unsafe { row.copy_to_nonoverlapping(at.c.add(i * s.m), s.m) };
        }
    }
    let (a_row, a_column) = layout(s.trans_a, s.n, s.k);
    let (b_row, b_column) = layout(s.trans_b, s.k, s.m);
    let threads = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
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
            !matches!(start, Start::Overwrite),
            at.a,
            a_column as isize,
            a_row as isize,
            at.b,
            b_column as isize,
            b_row as isize,
            T::ONE,
            alpha,
            false,
            false,
            false,
            threads,
        );
    }
}
