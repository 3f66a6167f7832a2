//! Patch embedding on a device: a linear layer and launches of `patch_embed.cu`.

use super::PatchEmbed;
use crate::call::{Gpu, Launch};
use crate::device::sizes::{each, small};
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View, ViewMut};
use crate::ops::linear::{Backward, Forward, ParameterGradients};
use crate::{KernelError, Result, check_count};

static PTX: Module = Module::new("patch_embed", include_str!("../../../ptx/patch_embed.ptx"));

/// Mirrors `PatchEmbed` in `patch_embed.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    channels: u32,
    h: u32,
    w: u32,
    p: u32,
}

impl PatchEmbed {
    /// [`PatchEmbed::forward`] on a device: copies the image to rows of patches, multiplies, adds
    /// the bias.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; as [`PatchEmbed::grid`]; a failure of the
    /// device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        x: View<'_, T>,
        weight: View<'_, T>,
        bias: Option<View<'_, f32>>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        let linear = self.linear()?;
        let rows = self.rows(device, x)?;
        Forward::<Gpu, _> { x: rows.view(), weight, bias, y }.launch(device, &linear)
    }

    /// [`PatchEmbed::backward`] on a device: writes `dx` and adds to `dweight` and `dbias`, which
    /// are always f32. Each is optional. Only `dweight` needs `x`.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; `dweight` without `x`; as
    /// [`PatchEmbed::grid`]; a failure of the device.
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
        let linear = self.linear()?;
        if dweight.is_some() && x.is_none() {
            let what = "the gradient of the weight needs x".into();
            return Err(KernelError::Size { op: "patch_embed", what });
        }
        let rows = match x.filter(|_| dweight.is_some()) {
            Some(x) => Some(self.rows(device, x)?),
            None => None,
        };
        let rows = rows.as_ref().map(Buffer::view);
        let parameters = ParameterGradients::<Gpu, _> { x: rows, dy, dweight, dbias };
        let Some(dx) = dx else { return parameters.launch(device, &linear) };
        check_count("patch_embed", "dx", dx.len(), linear.n * linear.k)?;
        let mut drows = device.alloc("patch_embed.rows", linear.n * linear.k)?;
        Backward::<Gpu, _> { weight, dy, dx: drows.view_mut() }.launch(device, &linear)?;
        parameters.launch(device, &linear)?;
        let args = Args::new(&self.sizes()?).read(drows.view()).write(dx);
        // SAFETY: both hold the pixels of all images; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("patch_pixels"), &self.by_pixels(), &args) }
    }

    fn rows<T: Float>(&self, device: &Device, x: View<'_, T>) -> Result<Buffer<T>> {
        let linear = self.linear()?;
        check_count("patch_embed", "x", x.len(), linear.n * linear.k)?;
        let mut rows = device.alloc("patch_embed.rows", x.len())?;
        let args = Args::new(&self.sizes()?).read(x).write(rows.view_mut());
        // SAFETY: both hold the pixels of all images; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("patch_rows"), &self.by_pixels(), &args)? };
        Ok(rows)
    }

    fn by_pixels(&self) -> Grid {
        each(self.b * self.channels * self.h * self.w)
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small("patch_embed", name, n);
        size("the number of pixels", self.b * self.channels * self.h * self.w)?;
        Ok(Sizes {
            b: size("b", self.b)?,
            channels: size("channels", self.channels)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            p: size("p", self.p)?,
        })
    }
}
