//! Launches of `activation.cu`.

use super::Activation;
use crate::device::sizes::flat;
use crate::device::{Args, Device, Float, Module, View, ViewMut};
use crate::{Result, check_count};

static PTX: Module = Module::new("activation", include_str!("../../../ptx/activation.ptx"));

/// Mirrors `Activation` in `activation.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u64,
}

impl Activation {
    /// [`Activation::forward`] on a device.
    ///
    /// # Errors
    /// Views of different lengths; a failure of the device.
    pub fn forward_gpu<T: Float>(
        self,
        device: &Device,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("activation", "y", y.len(), x.len())?;
        let name = match self {
            Activation::Gelu => "gelu_fwd",
            Activation::QuickGelu => "quick_gelu_fwd",
            Activation::Relu => "relu_fwd",
        };
        let args = Args::new(&Sizes { n: x.len() as u64 }).read(x).write(y);
        // SAFETY: both hold n elements; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(name), &flat(x.len()), &args) }
    }

    /// [`Activation::backward`] on a device.
    ///
    /// # Errors
    /// Views of different lengths; a failure of the device.
    pub fn backward_gpu<T: Float>(
        self,
        device: &Device,
        x: View<'_, T>,
        dy: View<'_, T>,
        dx: ViewMut<'_, T>,
    ) -> Result<()> {
        check_count("activation", "dy", dy.len(), x.len())?;
        check_count("activation", "dx", dx.len(), x.len())?;
        let name = match self {
            Activation::Gelu => "gelu_bwd",
            Activation::QuickGelu => "quick_gelu_bwd",
            Activation::Relu => "relu_bwd",
        };
        let args = Args::new(&Sizes { n: x.len() as u64 }).read(x).read(dy).write(dx);
        // SAFETY: all hold n elements; threads beyond the end do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(name), &flat(x.len()), &args) }
    }
}
