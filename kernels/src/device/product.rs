//! Plain matrix products on a device.
//!
//! The same contract as [`MatMul::run`]: `C = alpha op(A) op(B)` or added to `C`. `A` and `B` are
//! of one type, f32 or bf16; `C` is f32 or of their type. Sums run in f32 whatever the storage.
//! On a real device cuBLASLt computes it, on the virtual one the CPU's product of the f32 values,
//! rounded once to the storage of `C`.

use std::sync::atomic::Ordering::Relaxed;

use super::backend::{Product, Storage};
use super::{Device, Float, View, ViewMut};
use crate::matmul::{Beta, MatMul};
use crate::{KernelError, Result};

impl Device {
    /// Queues `C = alpha op(A) op(B)`, or adds it to `C`.
    ///
    /// Products that are summed into one `C` ([`MatMul::summed`]) are formed one after the other.
    ///
    /// # Errors
    /// A view of another length than the sizes say; another device's memory; a `C` of bf16 for
    /// operands of f32; a sum over a batch in bf16, which would round after every product; a
    /// failure of the device.
    pub fn matmul<T: Float, C: Float>(
        &self,
        sizes: &MatMul,
        alpha: f32,
        a: View<'_, T>,
        b: View<'_, T>,
        beta: Beta,
        c: ViewMut<'_, C>,
    ) -> Result<()> {
        let refused = |what: &str| KernelError::Size { op: "matmul", what: what.into() };
        for id in [a.id(), b.id(), c.id()] {
            self.owns("matmul", id)?;
        }
        sizes.check_lens(a.len(), b.len(), c.len())?;
        if (T::STORAGE, C::STORAGE) == (Storage::F32, Storage::Bf16) {
            return Err(refused("operands of f32 give a result of f32, not of bf16"));
        }
        let summed = sizes.batch > 1 && sizes.stride_c == 0;
        if summed && C::STORAGE == Storage::Bf16 {
            return Err(refused("a sum over a batch needs a result of f32"));
        }
        if sizes.n == 0 || sizes.m == 0 {
            return Ok(());
        }
        if sizes.k == 0 || sizes.batch == 0 {
            return if beta == Beta::Overwrite { self.zero(c) } else { Ok(()) };
        }
        let (operands, result) = (T::STORAGE, C::STORAGE);
        let (a, b, c) = (a.address(), b.address(), c.address());
        let whole = Product { sizes: *sizes, alpha, beta, operands, result, a, b, c };
        if !summed {
            return self.product(&whole);
        }
        for i in 0..sizes.batch {
            let at = |address: u64, stride: usize| address + (i * stride * size_of::<T>()) as u64;
            let (a, b) = (at(a, sizes.stride_a), at(b, sizes.stride_b));
            let beta = if i > 0 { Beta::Add } else { beta };
            let sizes = MatMul { batch: 1, ..*sizes };
            self.product(&Product { sizes, beta, a, b, ..whole })?;
        }
        Ok(())
    }

    fn product(&self, product: &Product) -> Result<()> {
        self.0.products.fetch_add(1, Relaxed);
        let MatMul { batch, n, m, k, .. } = product.sizes;
        self.note(|asked| {
            asked.products += 1;
            asked.flops += 2 * (batch * n * m * k) as u64;
        });
        self.0.backend.product(product)
    }
}
