//! Matrix products on a device.
//!
//! The contract is that of [`MatMul::run`]: `C = alpha op(A) op(B)`, or added to `C`. `A` and `B`
//! have one type, f32 or bf16; `C` is f32 or of their type. Sums run in f32 for every storage type.
//! A real device uses cuBLASLt. The virtual device uses the CPU's product of the f32 values,
//! rounded once to the storage type of `C`.
//!
//! [`Device::matmul_with`] fuses parts of a linear layer: its bias, a ReLU after it, the gradient
//! of the bias. A GELU is not among them: cuBLASLt has the tanh form, the published backbones use
//! the exact one, and the two differ by up to 4.7e-4 (at 2.7).

use std::sync::atomic::Ordering::Relaxed;

use super::backend::{Fused, Product, Storage, mask_row};
use super::{Device, Float, View, ViewMut};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result, Write, check_count};

/// Operation fused with a product. It is computed in f32, before the one rounding of `C`.
#[derive(Debug)]
pub enum Epilogue<'a, C> {
    /// Adds a vector `[m]` to every row of `C`.
    Bias(View<'a, C>),
    /// Adds a vector `[m]` to every row of `C` and applies a ReLU.
    BiasRelu(View<'a, C>),
    /// Does the same and writes a bit mask for the backward pass. The mask has
    /// [`Epilogue::mask_len`] bytes that only [`Epilogue::ReluBackward`] understands.
    BiasReluMask(View<'a, C>, ViewMut<'a, u8>),
    /// Keeps the elements of `C` with a bit in the mask; the others become 0. For `dx = dy weight`
    /// this is the gradient before the ReLU whose result is `x`.
    ReluBackward(View<'a, u8>),
    /// Writes the sums of the rows of `op(A)`, `[n]`. For `dweight = dy^T x` they are the gradient
    /// of the bias.
    RowSums(ViewMut<'a, C>),
}

impl Epilogue<'_, f32> {
    /// Bytes of a mask for `C` `[n, m]`.
    pub const fn mask_len(n: usize, m: usize) -> usize {
        n * mask_row(m)
    }
}

impl Device {
    /// Queues `C = alpha op(A) op(B)`, or adds it to `C`.
    ///
    /// Products that are summed into one `C` ([`MatMul::summed`]) run one after the other.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; another device's memory; a bf16 `C` for f32
    /// operands; a sum over a batch in bf16, which would round after every product; a failure of
    /// the device.
    pub fn matmul<T: Float, C: Float>(
        &self,
        sizes: &MatMul,
        alpha: f32,
        a: View<'_, T>,
        b: View<'_, T>,
        write: Write,
        c: ViewMut<'_, C>,
    ) -> Result<()> {
        self.check_product(sizes, a, b, &c)?;
        let summed = sizes.batch > 1 && sizes.stride_c == 0;
        if sizes.n == 0 || sizes.m == 0 {
            return Ok(());
        }
        if sizes.k == 0 || sizes.batch == 0 {
            return if write == Write::Over { self.zero(c) } else { Ok(()) };
        }
        let (operands, result) = (T::STORAGE, C::STORAGE);
        let (a, b, c) = (a.address(), b.address(), c.address());
        let (sizes, fused) = (*sizes, Fused::Nothing);
        let whole = Product { sizes, alpha, write, operands, result, a, b, c, fused };
        if !summed {
            return self.product(&whole).map(drop);
        }
        for i in 0..sizes.batch {
            let at = |address: u64, stride: usize| address + (i * stride * size_of::<T>()) as u64;
            let (a, b) = (at(a, sizes.stride_a), at(b, sizes.stride_b));
            let write = if i > 0 { Write::Add } else { write };
            let sizes = MatMul { batch: 1, ..sizes };
            self.product(&Product { sizes, write, a, b, ..whole })?;
        }
        Ok(())
    }

    /// Queues `C = alpha op(A) op(B)`, or adds it to `C`, with an epilogue. Returns `false` and
    /// queues nothing if the device cannot fuse it or there is nothing to multiply.
    ///
    /// # Errors
    /// As [`Device::matmul`]; a vector of another length; more than one product.
    #[allow(clippy::too_many_arguments, reason = "launch code: the operands of the product")]
    pub fn matmul_with<T: Float, C: Float>(
        &self,
        sizes: &MatMul,
        alpha: f32,
        a: View<'_, T>,
        b: View<'_, T>,
        write: Write,
        epilogue: Epilogue<'_, C>,
        c: ViewMut<'_, C>,
    ) -> Result<bool> {
        self.check_product(sizes, a, b, &c)?;
        let fused = self.fused(sizes, &epilogue)?;
        if sizes.batch != 1 {
            let what = "an epilogue belongs to one product, not to a batch".into();
            return Err(KernelError::Size { op: "matmul", what });
        }
        if sizes.n == 0 || sizes.m == 0 || sizes.k == 0 {
            return Ok(false);
        }
        let (operands, result) = (T::STORAGE, C::STORAGE);
        let (a, b, c) = (a.address(), b.address(), c.address());
        let product = Product { sizes: *sizes, alpha, write, operands, result, a, b, c, fused };
        if !self.0.backend.fits(&product)? {
            return Ok(false);
        }
        self.product(&product)
    }

    /// Checks the memory that an epilogue reads and writes.
    fn fused<C: Float>(&self, sizes: &MatMul, epilogue: &Epilogue<'_, C>) -> Result<Fused> {
        let mask = |id, len| {
            self.owns("matmul", id)?;
            let expected = Epilogue::mask_len(sizes.n, sizes.m);
            check_count("matmul", "mask of the epilogue", len, expected)
        };
        let (id, len, expected, fused) = match epilogue {
            Epilogue::Bias(b) => (b.id(), b.len(), sizes.m, Fused::Bias(b.address())),
            Epilogue::BiasRelu(b) => (b.id(), b.len(), sizes.m, Fused::BiasRelu(b.address())),
            Epilogue::BiasReluMask(b, bits) => {
                mask(bits.id(), bits.len())?;
                let fused = Fused::BiasReluMask(b.address(), bits.address());
                (b.id(), b.len(), sizes.m, fused)
            }
            Epilogue::ReluBackward(bits) => {
                mask(bits.id(), bits.len())?;
                return Ok(Fused::ReluBackward(bits.address()));
            }
            Epilogue::RowSums(s) => (s.id(), s.len(), sizes.n, Fused::RowSums(s.address())),
        };
        self.owns("matmul", id)?;
        check_count("matmul", "vector of the epilogue", len, expected)?;
        Ok(fused)
    }

    fn check_product<T: Float, C: Float>(
        &self,
        sizes: &MatMul,
        a: View<'_, T>,
        b: View<'_, T>,
        c: &ViewMut<'_, C>,
    ) -> Result<()> {
        let refused = |what: &str| KernelError::Size { op: "matmul", what: what.into() };
        for id in [a.id(), b.id(), c.id()] {
            self.owns("matmul", id)?;
        }
        sizes.check_lens(a.len(), b.len(), c.len())?;
        if (T::STORAGE, C::STORAGE) == (Storage::F32, Storage::Bf16) {
            return Err(refused("operands of f32 give a result of f32, not of bf16"));
        }
        if sizes.batch > 1 && sizes.stride_c == 0 && C::STORAGE == Storage::Bf16 {
            return Err(refused("a sum over a batch needs a result of f32"));
        }
        Ok(())
    }

    /// Queues a product. Returns `false` only for a fused product that the device refuses.
    fn product(&self, product: &Product) -> Result<bool> {
        // `C` stands in for an absent vector or mask.
        let [vector, mask] =
            [product.fused.vector(), product.fused.mask()].map(|at| at.unwrap_or(product.c));
        let gate = self.gate(&[product.a, product.b, product.c, vector, mask])?;
        if !self.0.backend.product(product)? {
            return Ok(false);
        }
        if gate.capturing() {
            gate.count_product();
        } else {
            self.0.products.fetch_add(1, Relaxed);
            let MatMul { batch, n, m, k, .. } = product.sizes;
            self.note(|counts| {
                counts.products += 1;
                counts.flops += 2 * (batch * n * m * k) as u64;
            });
        }
        Ok(true)
    }
}
