//! Patch embedding on a device: a linear layer and launches of `patch_embed.cu`.

use super::{Backward, Forward, ParameterGradients, PatchEmbed};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::{each, small};
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View};
use crate::ops::linear;

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

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PatchEmbed, device: &Device) -> Result<()> {
        let Forward { x, weight, bias, y } = self;
        let rows = s.rows(device, x)?;
        linear::Forward::<Gpu, T> { x: rows.view(), weight, bias, y }.launch(device, &s.layer())
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PatchEmbed, device: &Device) -> Result<()> {
        let Backward { weight, dy, dx } = self;
        let mut drows = device.alloc("patch_embed.rows", dx.len())?;
        let layer = linear::Backward::<Gpu, T> { weight, dy, dx: drows.view_mut() };
        layer.launch(device, &s.layer())?;
        let args = Args::new(&s.sizes()?).read(drows.view()).write(dx);
        // SAFETY: both hold the pixels of all images; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("patch_pixels"), &s.by_pixels(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for ParameterGradients<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &PatchEmbed, device: &Device) -> Result<()> {
        let ParameterGradients { x, dy, dweight, dbias } = self;
        let rows = x.filter(|_| dweight.is_some()).map(|x| s.rows(device, x)).transpose()?;
        let x = rows.as_ref().map(Buffer::view);
        linear::ParameterGradients::<Gpu, T> { x, dy, dweight, dbias }.launch(device, &s.layer())
    }
}

impl PatchEmbed {
    /// Copies images `x` of checked length to rows of patches.
    fn rows<T: Float>(&self, device: &Device, x: View<'_, T>) -> Result<Buffer<T>> {
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
        let size = |name, n| small(Self::NAME, name, n);
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
