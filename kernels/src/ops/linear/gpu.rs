//! Linear layers on a device: products by [`Device::matmul_with`], fused with the bias, a ReLU and
//! the gradient of the bias.
//!
//! The bias is a parameter in f32. With bf16 activations the product needs it in bf16, so a copy of
//! `m` elements is rounded first. If the device cannot fuse, the bias and its gradient are separate
//! launches.

use super::Linear;
use crate::call::{Gpu, Launch};
use crate::device::{Device, Epilogue, Float, View, ViewMut};
use crate::ops::activation::{Activation, Forward, Pointwise};
use crate::ops::add::{Add, cast_gpu};
use crate::ops::matmul::MatMul;
use crate::ops::reduce;
use crate::{KernelError, Result, Write, check_count};

/// Operation after the bias.
enum Behind<'a> {
    Nothing,
    Relu,
    ReluMask(ViewMut<'a, u8>),
}

impl Linear {
    /// [`Linear::forward`] on a device: one product, and with bf16 a launch that rounds the bias.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: Option<View<'_, f32>>,
        mut y: ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_gpu(x.len(), weight.len(), y.len())?;
        let product = MatMul::new(self.n, self.m, self.k).trans_b();
        let Some(bias) = bias else {
            return device.matmul(&product, 1.0, x, weight, Write::Over, y);
        };
        if self.biased(device, x, weight, bias, Behind::Nothing, y.reborrow())? {
            return Ok(());
        }
        device.matmul(&product, 1.0, x, weight, Write::Over, y.reborrow())?;
        Add { n: self.n, inner: self.m }.in_place_gpu(device, y, bias)
    }

    /// As [`Linear::forward_relu_gpu`], with a `mask` ([`Epilogue::mask_len`] bytes) for
    /// [`Linear::dx_before_relu_gpu`]. Returns whether the mask was written; a device without the
    /// epilogue does not write it.
    ///
    /// # Errors
    /// As [`Linear::forward_gpu`].
    pub fn forward_relu_mask_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: View<'_, f32>,
        mask: ViewMut<'_, u8>,
        mut y: ViewMut<'_, T>,
    ) -> Result<bool> {
        self.check_gpu(x.len(), weight.len(), y.len())?;
        if self.biased(device, x, weight, bias, Behind::ReluMask(mask), y.reborrow())? {
            return Ok(true);
        }
        self.forward_relu_gpu(device, x, weight, bias, y)?;
        Ok(false)
    }

    /// `y = max(x weight^T + bias, 0)`: [`Linear::forward_gpu`] and a ReLU in one.
    ///
    /// # Errors
    /// As [`Linear::forward_gpu`].
    pub fn forward_relu_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: View<'_, f32>,
        mut y: ViewMut<'_, T>,
    ) -> Result<()> {
        self.check_gpu(x.len(), weight.len(), y.len())?;
        if self.biased(device, x, weight, bias, Behind::Relu, y.reborrow())? {
            return Ok(());
        }
        let mut before = device.alloc("linear.before_relu", y.len())?;
        let product = MatMul::new(self.n, self.m, self.k).trans_b();
        device.matmul(&product, 1.0, x, weight, Write::Over, before.view_mut())?;
        let rows = Add { n: self.n, inner: self.m };
        rows.in_place_gpu(device, before.view_mut(), bias)?;
        let relu = Pointwise { f: Activation::Relu, n: y.len() };
        Forward::<Gpu, _> { x: before.view(), y }.launch(device, &relu)
    }

    /// `dx = dy weight` where the ReLU that produced `x` was positive, else 0. This is the gradient
    /// before that ReLU, whose layer wrote the mask. Returns `false`, with nothing launched, if the
    /// device cannot do it.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
    pub fn dx_before_relu_gpu<T: Float>(
        &self,
        device: &Device,
        weight: View<'_, T>,
        dy: View<'_, T>,
        mask: View<'_, u8>,
        dx: ViewMut<'_, T>,
    ) -> Result<bool> {
        self.check_gpu(dx.len(), weight.len(), dy.len())?;
        // y = x weight^T
        let product = MatMul::new(self.n, self.k, self.m);
        let epilogue = Epilogue::ReluBackward(mask);
        device.matmul_with(&product, 1.0, dy, weight, Write::Over, epilogue, dx)
    }

    /// Runs the product with a bias epilogue; `false` if the device has none.
    fn biased<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: View<'_, f32>,
        behind: Behind<'_>,
        y: ViewMut<'_, T>,
    ) -> Result<bool> {
        check_count("linear", "bias", bias.len(), self.m)?;
        let product = MatMul::new(self.n, self.m, self.k).trans_b();
        let narrow;
        let vector = match bias.of_type::<T>() {
            Some(bias) => bias,
            None => {
                let mut rounded = device.alloc("linear.bias", self.m)?;
                cast_gpu(device, bias, rounded.view_mut())?;
                narrow = rounded;
                narrow.view()
            }
        };
        let epilogue = match behind {
            Behind::Nothing => Epilogue::Bias(vector),
            Behind::Relu => Epilogue::BiasRelu(vector),
            Behind::ReluMask(mask) => Epilogue::BiasReluMask(vector, mask),
        };
        device.matmul_with(&product, 1.0, x, weight, Write::Over, epilogue, y)
    }

    fn check_gpu(&self, x: usize, weight: usize, y: usize) -> Result<()> {
        check_count("linear", "x", x, self.n * self.k)?;
        check_count("linear", "weight", weight, self.m * self.k)?;
        check_count("linear", "y", y, self.n * self.m)
    }

    /// [`Linear::backward`] on a device: writes `dx` and adds to `dweight` and `dbias`, which are
    /// always f32. Each is optional. Only `dweight` needs `x`; its product also computes the
    /// gradient of the bias.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; `dweight` without `x`; a failure of the
    /// device.
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        x: Option<View<'_, T>>,
        weight: View<'_, T>,
        dy: View<'_, T>,
        dx: Option<ViewMut<'_, T>>,
        dweight: Option<ViewMut<'_, f32>>,
        dbias: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        check_count("linear", "weight", weight.len(), self.m * self.k)?;
        check_count("linear", "dy", dy.len(), self.n * self.m)?;
        if let Some(dbias) = &dbias {
            check_count("linear", "dbias", dbias.len(), self.m)?;
        }
        if let Some(dx) = dx {
            check_count("linear", "dx", dx.len(), self.n * self.k)?;
            // y = x weight^T
            let product = MatMul::new(self.n, self.k, self.m);
            device.matmul(&product, 1.0, dy, weight, Write::Over, dx)?;
        }
        let Some(dweight) = dweight else {
            return match dbias {
                Some(dbias) => reduce::column_sums_gpu(device, dy, self.n, dbias),
                None => Ok(()),
            };
        };
        check_count("linear", "dweight", dweight.len(), self.m * self.k)?;
        let Some(x) = x else {
            let what = "the gradient of the weight needs x".into();
            return Err(KernelError::Size { op: "linear", what });
        };
        check_count("linear", "x", x.len(), self.n * self.k)?;
        self.parameters(device, x, dy, dweight, dbias)
    }

    fn parameters<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        dy: View<'_, T>,
        mut dweight: ViewMut<'_, f32>,
        dbias: Option<ViewMut<'_, f32>>,
    ) -> Result<()> {
        // y = x weight^T + bias
        let product = MatMul::new(self.m, self.k, self.n).trans_a();
        let Some(dbias) = dbias else {
            return device.matmul(&product, 1.0, dy, x, Write::Add, dweight);
        };
        let mut sums = device.alloc("linear.dbias", self.m)?;
        let rows = Epilogue::RowSums(sums.view_mut());
        let into = dweight.reborrow();
        if device.matmul_with(&product, 1.0, dy, x, Write::Add, rows, into)? {
            return Add { n: 1, inner: self.m }.in_place_gpu(device, dbias, sums.view());
        }
        device.matmul(&product, 1.0, dy, x, Write::Add, dweight)?;
        reduce::column_sums_gpu(device, dy, self.n, dbias)
    }
}
