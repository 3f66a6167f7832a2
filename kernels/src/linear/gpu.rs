//! Linear layers on a device: products by [`Device::matmul`], biases by [`Add`].

use super::Linear;
use crate::add::Add;
use crate::device::{Device, Float, View, ViewMut};
use crate::matmul::{Beta, MatMul};
use crate::{KernelError, Result, check_count, reduce};

impl Linear {
    /// [`Linear::forward`] on a device: one product and, with a bias, one launch that adds it in
    /// place.
    ///
    /// # Errors
    /// A view of another length than the sizes say; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: Option<View<'_, f32>>,
        mut y: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("linear", "x", x.len(), self.n * self.k)?;
        check_count("linear", "weight", weight.len(), self.m * self.k)?;
        check_count("linear", "y", y.len(), self.n * self.m)?;
        let product = MatMul::new(self.n, self.m, self.k).trans_b();
        device.matmul(&product, 1.0, x, weight, Beta::Overwrite, y.reborrow())?;
        match bias {
            Some(bias) => Add { n: self.n, inner: self.m }.in_place_gpu(device, y, bias),
            None => Ok(()),
        }
    }

    /// [`Linear::backward`] on a device: writes `dx`, adds to `dweight` and `dbias`, which are f32
    /// whatever the storage; each may be left out. `x` is needed for `dweight` alone.
    ///
    /// # Errors
    /// A view of another length than the sizes say; `dweight` without `x`; a failure of the
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
        if let Some(dx) = dx {
            check_count("linear", "dx", dx.len(), self.n * self.k)?;
            // y = x weight^T
            let product = MatMul::new(self.n, self.k, self.m);
            device.matmul(&product, 1.0, dy, weight, Beta::Overwrite, dx)?;
        }
        if let Some(dweight) = dweight {
            check_count("linear", "dweight", dweight.len(), self.m * self.k)?;
            let Some(x) = x else {
                let what = "the gradient of the weight needs x".into();
                return Err(KernelError::Size { op: "linear", what });
            };
            check_count("linear", "x", x.len(), self.n * self.k)?;
            let product = MatMul::new(self.m, self.k, self.n).trans_a();
            device.matmul(&product, 1.0, dy, x, Beta::Add, dweight)?;
        }
        if let Some(dbias) = dbias {
            check_count("linear", "dbias", dbias.len(), self.m)?;
            reduce::column_sums_gpu(device, dy, self.n, dbias)?;
        }
        Ok(())
    }
}
