//! Launches of `activation.cu`.

use super::{Activation, Backward, Forward, Pointwise};
use crate::Result;
use crate::call::{Gpu, Launch, arguments};
use crate::device::sizes::flat;
use crate::device::{Device, Float, Module};

static PTX: Module = Module::new("activation", include_str!("../../../ptx/activation.ptx"));

/// Mirrors `Activation` in `activation.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u64,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Pointwise, device: &Device) -> Result<()> {
        let name = match s.f {
            Activation::Gelu => "gelu_fwd",
            Activation::QuickGelu => "quick_gelu_fwd",
            Activation::Relu => "relu_fwd",
        };
        let args = arguments(&Sizes { n: s.n as u64 }, s, self);
        // SAFETY: both hold n elements; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(name), &flat(s.n), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Pointwise, device: &Device) -> Result<()> {
        let name = match s.f {
            Activation::Gelu => "gelu_bwd",
            Activation::QuickGelu => "quick_gelu_bwd",
            Activation::Relu => "relu_bwd",
        };
        let args = arguments(&Sizes { n: s.n as u64 }, s, self);
        // SAFETY: all hold n elements; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(name), &flat(s.n), &args) }
    }
}
