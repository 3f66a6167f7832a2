//! Choice between the blocked product and the `gemm` crate. For the crate, a batch is split over
//! threads and large products are split internally.

use gemm::Parallelism;
use rayon::prelude::*;

use super::MatMul;
use super::blocked::Blocked;
use super::finish::Finish;
use super::left::Left;
use super::right::{Right, Values};
use crate::cpu::simd;
use crate::{Real, Write, f32s, f32s_mut};

/// Multiply-adds below which another thread does not pay off.
const TASK: usize = 1 << 18;

/// Start addresses of the operands of one product.
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

impl MatMul {
    /// Whether the blocked product is faster in f32, according to the table in the module's
    /// documentation.
    fn blocked_wins(&self) -> bool {
        let large = self.n * self.m * self.k >= TASK;
        let turned = self.trans_b && !self.trans_a;
        self.batch == 1 && large && turned && (self.k >= 512 || self.n <= 256)
    }

    /// Whether f32 uses the blocked product.
    pub(crate) fn blocked(&self) -> bool {
        simd::own_products() || self.blocked_wins()
    }
}

/// Computes the product; lengths and the stride of outputs have been checked.
pub fn run<T: Real>(s: &MatMul, alpha: T, a: &[T], b: &[T], write: Write, c: &mut [T]) {
    if s.batch == 0 && s.stride_c == 0 && write == Write::Over {
        c.fill(T::ZERO);
    }
    if s.batch == 0 || s.n * s.m == 0 {
        return;
    }
    if T::IS_F32 && s.blocked() {
        blocked(s, f32s(&[alpha])[0], f32s(a), f32s(b), write, f32s_mut(c));
        return;
    }
    let work = s.n * s.m * s.k;
    let at = Operands { a: a.as_ptr(), b: b.as_ptr(), c: c.as_mut_ptr() };
    // The split of the work changes which thread computes a sum, never its order.
    let threads = rayon::current_num_threads();
    let within = threads > 1 && work >= TASK;
    if s.batch == 1 || s.stride_c == 0 || (within && s.batch < 2 * threads) {
        let inside = if within { Parallelism::Rayon(0) } else { Parallelism::None };
        for p in 0..s.batch {
            let write = if p > 0 && s.stride_c == 0 { Write::Add } else { write };
            // SAFETY: `p < batch`; one product at a time writes to c.
            unsafe { product(s, alpha, at.of(s, p), write, inside) };
        }
        return;
    }
    let at = &at;
    (0..s.batch).into_par_iter().with_min_len(TASK.div_ceil(work.max(1))).for_each(|p| {
        // SAFETY: `p < batch`, and outputs lie at least n * m apart.
        unsafe { product(s, alpha, at.of(s, p), write, Parallelism::None) };
    });
}

/// Computes f32 products one after the other; each is split over the threads.
fn blocked(s: &MatMul, alpha: f32, a: &[f32], b: &[f32], write: Write, c: &mut [f32]) {
    for p in 0..s.batch {
        let (a, b) = (&a[p * s.stride_a..][..s.n * s.k], &b[p * s.stride_b..][..s.k * s.m]);
        let add = write == Write::Add || (p > 0 && s.stride_c == 0);
        let product = Blocked {
            n: s.n,
            m: s.m,
            k: s.k,
            left: if s.trans_a { Left::Columns(a) } else { Left::Rows(a) },
            right: Right { values: Values::F32(b), transposed: s.trans_b },
            finish: Finish::Scale { alpha, add },
        };
        product.run(&mut c[p * s.stride_c..][..s.n * s.m]);
    }
}

/// Computes one product with the `gemm` crate.
///
/// # Safety
/// `at` points to `n k`, `k m` and `n m` elements; no other thread accesses those of `c`.
unsafe fn product<T: Real>(
    s: &MatMul,
    alpha: T,
    at: Operands<T>,
    write: Write,
    parallelism: Parallelism,
) {
    let step = |transposed: bool, rows: usize, columns: usize| {
        let (row, column) = if transposed { (1, rows) } else { (columns, 1) };
        (row as isize, column as isize)
    };
    let (a_row, a_col) = step(s.trans_a, s.n, s.k);
    let (b_row, b_col) = step(s.trans_b, s.k, s.m);
    // In the crate, alpha is the factor of the old contents and beta that of the product.
    // SAFETY: the strides describe the layouts that the caller guarantees.
    unsafe {
        gemm::gemm(
            s.n,
            s.m,
            s.k,
            at.c,
            1,
            s.m as isize,
            write == Write::Add,
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
