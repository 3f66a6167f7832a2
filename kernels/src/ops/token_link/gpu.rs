//! Launches of `token_link.cu`.

use super::{Backward, Forward, TokenLink};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{each, small};
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("token_link", include_str!("../../../ptx/token_link.ptx"));

/// Mirrors `TokenLink` in `token_link.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    layers: u32,
    n: u32,
}

impl TokenLink {
    fn grid(&self) -> Grid {
        each(self.m * self.c)
    }

    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        Ok(Sizes { layers: size("layers", self.layers)?, n: size("m c", self.m * self.c)? })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &TokenLink, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; threads beyond [m, c] do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("token_link_fwd"), &s.grid(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &TokenLink, device: &Device) -> Result<()> {
        let args = arguments(&s.sizes()?, s, self);
        // SAFETY: the lengths were checked; threads beyond [m, c] do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("token_link_bwd"), &s.grid(), &args) }
    }
}
