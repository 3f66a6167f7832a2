//! Matrix products, plain and strided-batched.
//!
//! ```text
//! C[n, m]  = alpha * sum_k op(A)[n, k] op(B)[k, m]        Write::Over
//! C[n, m] += alpha * sum_k op(A)[n, k] op(B)[k, m]        Write::Add
//! ```
//! `A` is stored `[n, k]` or, with `trans_a`, `[k, n]`; `B` is stored `[k, m]` or, with `trans_b`,
//! `[m, k]`: the layout of a linear layer's weight. A batch repeats this at fixed strides; stride 0
//! shares an operand. A shared `C` receives the sum over the batch, added in batch order.
//!
//! Backward: the gradients of a product are products, `dA = dC op(B)^T` and `dB = op(A)^T dC`. So
//! nothing is saved and there is no backward function here; the operations built on this one
//! compute the gradients.
//!
//! Cost: `2 batch n m k` FLOP.
//!
//! The `gemm` crate computes f64, batches and small products. The blocked product of this folder
//! (`blocked`) computes large products in f32 whose right operand is transposed, as the weight of
//! a linear layer is. It also computes both directions of frozen layers, fused with their
//! neighbours (see `linear`). Both split the output into register tiles and give whole tiles to
//! threads. The depth is split by size only, so every element of `C` is summed in the same order
//! for any number of threads (`tests.rs` checks this bit by bit). The crate uses the cache sizes of
//! the CPU, so two different machines may round differently. Where a level is fixed
//! ([`crate::cpu::simd::choose`]) every product in f32 is the blocked one, which does not depend on
//! cache sizes.
//!
//! Measured on two cores of a Zen 4 (AVX-512, 2 x 116 GFLOP/s), medians in GFLOP/s, `n x m x k`:
//!
//! | product | blocked | crate |
//! |---|---|---|
//! | 1025 x 4096 x 1024, `B` `[m, k]` | 208 | 170 |
//! | 1025 x 1024 x 4096, `B` `[m, k]` | 200 | 176 |
//! | 1025 x 4096 x 1024, `B` `[k, m]` | 215 | 212 |
//! | 100 x 256 x 2048, `B` `[m, k]` | 124 | 44 |
//! | 21504 x 256 x 256, `B` `[m, k]` | 153 | 189 |
//! | 16384 x 256 x 2304, `B` `[k, m]` | 178 | 192 |
//! | 256 x 2304 x 8192, `A` `[k, n]` | 174 | 173 |
//!
//! Tried and rejected:
//!
//! * Weights packed once when they are loaded: 1 to 2 per cent faster at 1025 rows, since packing a
//!   panel on the fly costs little more than one pass through memory. That is not worth a second
//!   layout of every frozen weight, which would have to work for both directions and be undone for
//!   files.
//! * Strips packed with the depth outermost (`[depth][14]`): the tile runs at the same speed, but
//!   packing then has to transpose.
//! * Inner products of vectors along the depth (5 x 5 accumulators, nothing packed or transposed):
//!   48 GFLOP/s on one core against 117.
//! * Prefetching the next strip, the next tile of `C`, or rows ahead of a transposition; huge
//!   pages: no change beyond the noise.

mod blocked;
#[cfg(test)]
mod blocked_tests;
mod cpu;
mod finish;
mod left;
mod micro;
pub mod reference;
mod right;
mod square;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub(crate) use blocked::{Blocked, cost};
pub(crate) use cpu::run as multiply;
pub(crate) use finish::Finish;
pub(crate) use left::Left;
pub(crate) use micro::{Shape, TILE, shape, tile};
pub(crate) use right::{Right, Values};
pub(crate) use square::transpose;

use crate::dry_run::Cost;
use crate::{KernelError, Real, Result, Write, dry_run};

/// Sizes and layout of a product.
///
/// ```
/// use dressage_kernels::{Write, ops::matmul::MatMul};
/// // [1, 2] times the transpose of [3, 2]
/// let mut c = [0.0f32; 3];
/// let weight = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
/// MatMul::new(1, 3, 2).trans_b().run(1.0, &[5.0, 7.0], &weight, Write::Over, &mut c)?;
/// assert_eq!(c, [5.0, 7.0, 12.0]);
/// # Ok::<(), dressage_kernels::KernelError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatMul {
    /// Number of products.
    pub batch: usize,
    /// Rows of `C` and of `op(A)`.
    pub n: usize,
    /// Columns of `C` and of `op(B)`.
    pub m: usize,
    /// Depth: columns of `op(A)`, rows of `op(B)`.
    pub k: usize,
    /// Whether `A` is stored `[k, n]`.
    pub trans_a: bool,
    /// Whether `B` is stored `[m, k]`.
    pub trans_b: bool,
    /// Elements from one `A` to the next; 0 shares it.
    pub stride_a: usize,
    /// Elements from one `B` to the next; 0 shares it.
    pub stride_b: usize,
    /// Elements from one `C` to the next; 0 sums the batch into one `C`.
    pub stride_c: usize,
}

impl MatMul {
    /// Single product `[n, k] x [k, m]` without transposed operands.
    pub const fn new(n: usize, m: usize, k: usize) -> Self {
        let (stride_a, stride_b, stride_c) = (n * k, k * m, n * m);
        let (trans_a, trans_b) = (false, false);
        Self { batch: 1, n, m, k, trans_a, trans_b, stride_a, stride_b, stride_c }
    }

    /// Product whose `A` is stored `[k, n]`.
    #[must_use]
    pub const fn trans_a(mut self) -> Self {
        self.trans_a = true;
        self
    }

    /// Product whose `B` is stored `[m, k]`.
    #[must_use]
    pub const fn trans_b(mut self) -> Self {
        self.trans_b = true;
        self
    }

    /// Batch of `batch` products whose operands are contiguous.
    #[must_use]
    pub const fn batched(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Batch whose products share one `B`.
    #[must_use]
    pub const fn shared_b(mut self) -> Self {
        self.stride_b = 0;
        self
    }

    /// Batch whose products are summed into one `C`.
    #[must_use]
    pub const fn summed(mut self) -> Self {
        self.stride_c = 0;
        self
    }

    /// Computes the product; `c` is overwritten or added to.
    ///
    /// A slice may end with the last product or with the gap that its stride leaves after it.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; products that would overlap in `c`.
    pub fn run<T: Real>(
        &self,
        alpha: f64,
        a: &[T],
        b: &[T],
        write: Write,
        c: &mut [T],
    ) -> Result<()> {
        self.check_lens(a.len(), b.len(), c.len())?;
        if dry_run::skip_with("matmul", || self.cost::<T>()) {
            return Ok(());
        }
        cpu::run(self, T::of(alpha), a, b, write, c);
        Ok(())
    }

    /// Operations and scratch memory of the product on the host.
    pub(crate) fn cost<T: Real>(&self) -> Cost {
        let multiply_adds = self.batch * self.n * self.m * self.k;
        match T::IS_F32 && self.blocked() {
            true => Cost { flops: 2 * multiply_adds, ..cost(self.n, self.m, self.k) },
            false => Cost::products(multiply_adds),
        }
    }

    /// Fails unless the operands have the right numbers of elements.
    pub(crate) fn check_lens(&self, a: usize, b: usize, c: usize) -> Result<()> {
        self.check("a", a, self.stride_a, self.n * self.k)?;
        self.check("b", b, self.stride_b, self.k * self.m)?;
        self.check("c", c, self.stride_c, self.n * self.m)?;
        if self.batch > 1 && self.stride_c != 0 && self.stride_c < self.n * self.m {
            let what = format!(
                "products of {} elements overlap at a distance of {} in c",
                self.n * self.m,
                self.stride_c
            );
            return Err(KernelError::Size { op: "matmul", what });
        }
        Ok(())
    }

    fn check(&self, arg: &'static str, found: usize, stride: usize, size: usize) -> Result<()> {
        let expected = match self.batch {
            0 if stride == 0 => size,
            0 => 0,
            batch => (batch - 1) * stride + size,
        };
        if found == expected || (stride > size && found == self.batch * stride) {
            Ok(())
        } else {
            Err(KernelError::Length { op: "matmul", arg, expected, found })
        }
    }
}
