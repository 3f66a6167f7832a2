//! Linear layers on a device: products by [`Device::matmul_with`], fused with the bias, a ReLU and
//! the gradient of the bias.
//!
//! The bias is a parameter in f32. With bf16 activations the product needs it in bf16, so a copy of
//! `m` elements is rounded first. If the device cannot fuse, the bias and its gradient are separate
//! launches.

use super::{Backward, Forward, ForwardRelu, Linear, ParameterGradients};
use crate::call::{Gpu, Launch};
use crate::device::{Device, Epilogue, Float, View, ViewMut};
use crate::ops::activation::{self, Activation, Pointwise};
use crate::ops::add::{Add, cast_gpu};
use crate::ops::reduce;
use crate::{Result, Write, check_count};

/// Operation after the bias.
enum Behind<'a> {
    Nothing,
    Relu,
    ReluMask(ViewMut<'a, u8>),
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Linear, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, mut y } = self;
        if let Some(bias) = bias
            && s.biased(device, x, weight, bias, Behind::Nothing, y.reborrow())?
        {
            return Ok(());
        }
        device.matmul(&s.product_of_y(), 1.0, x, weight, Write::Over, y.reborrow())?;
        let Some(bias) = bias else { return Ok(()) };
        Add { n: s.n, inner: s.m }.in_place_gpu(device, y, bias)
    }
}

impl<'a, T: Float> Launch<'a> for ForwardRelu<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Linear, device: &Device) -> Result<()> {
        let ForwardRelu { x, weight, bias, mut y } = self;
        if s.biased(device, x, weight, bias, Behind::Relu, y.reborrow())? {
            return Ok(());
        }
        let mut before = device.alloc("linear.before_relu", y.len())?;
        device.matmul(&s.product_of_y(), 1.0, x, weight, Write::Over, before.view_mut())?;
        Add { n: s.n, inner: s.m }.in_place_gpu(device, before.view_mut(), bias)?;
        let relu = Pointwise { f: Activation::Relu, n: y.len() };
        activation::Forward::<Gpu, _> { x: before.view(), y }.launch(device, &relu)
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Linear, device: &Device) -> Result<()> {
        device.matmul(&s.product_of_dx(), 1.0, self.dy, self.weight, Write::Over, self.dx)
    }
}

impl<'a, T: Float> Launch<'a> for ParameterGradients<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Linear, device: &Device) -> Result<()> {
        let ParameterGradients { x, dy, dweight, dbias } = self;
        let product = s.product_of_dweight();
        let (Some(x), Some(mut dweight)) = (x, dweight) else {
            return match dbias {
                Some(dbias) => reduce::column_sums_gpu(device, dy, s.n, dbias),
                None => Ok(()),
            };
        };
        let Some(dbias) = dbias else {
            return device.matmul(&product, 1.0, dy, x, Write::Add, dweight);
        };
        let mut sums = device.alloc("linear.dbias", s.m)?;
        let rows = Epilogue::RowSums(sums.view_mut());
        let into = dweight.reborrow();
        if device.matmul_with(&product, 1.0, dy, x, Write::Add, rows, into)? {
            return Add { n: 1, inner: s.m }.in_place_gpu(device, dbias, sums.view());
        }
        device.matmul(&product, 1.0, dy, x, Write::Add, dweight)?;
        reduce::column_sums_gpu(device, dy, s.n, dbias)
    }
}

impl Linear {
    /// As [`ForwardRelu`], with a `mask` ([`Epilogue::mask_len`] bytes) for
    /// [`Linear::dx_before_relu_gpu`]. Returns whether the mask was written; a device without the
    /// epilogue does not write it.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; a failure of the device.
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
        ForwardRelu::<Gpu, _> { x, weight, bias, y }.launch(device, self)?;
        Ok(false)
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
        let epilogue = Epilogue::ReluBackward(mask);
        device.matmul_with(&self.product_of_dx(), 1.0, dy, weight, Write::Over, epilogue, dx)
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
        device.matmul_with(&self.product_of_y(), 1.0, x, weight, Write::Over, epilogue, y)
    }

    fn check_gpu(&self, x: usize, weight: usize, y: usize) -> Result<()> {
        check_count("linear", "x", x, self.n * self.k)?;
        check_count("linear", "weight", weight, self.m * self.k)?;
        check_count("linear", "y", y, self.n * self.m)
    }
}
