//! Launches of `token_link.cu`.

use super::{OP, TokenLink};
use crate::device::sizes::{each, small};
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

static PTX: Module = Module::new("token_link", include_str!("../../../ptx/token_link.ptx"));

/// Mirrors `TokenLink` in `token_link.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    layers: u32,
    n: u32,
}

impl TokenLink {
    /// [`TokenLink::forward`] on a device.
    ///
    /// # Errors
    /// A view whose length does not match the sizes, or no layer; a failure of the device.
    pub fn forward_gpu<T: Float>(
        &self,
        device: &Device,
        q: View<'_, T>,
        out: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.sizes(q.len(), "out", out.len())?;
        let args = Args::new(&sizes).read(q).write(out);
        // SAFETY: the lengths were checked; threads beyond [m, c] do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("token_link_fwd"), &self.grid(), &args) }
    }

    /// [`TokenLink::backward`] on a device.
    ///
    /// # Errors
    /// As [`TokenLink::forward_gpu`].
    pub fn backward_gpu<T: Float>(
        &self,
        device: &Device,
        q: View<'_, T>,
        dout: View<'_, T>,
        dq: ViewMut<'_, T>,
    ) -> Result<()> {
        let sizes = self.sizes(q.len(), "dout", dout.len())?;
        check_count(OP, "dq", dq.len(), q.len())?;
        let args = Args::new(&sizes).read(q).read(dout).write(dq);
        // SAFETY: the lengths were checked; threads beyond [m, c] do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("token_link_bwd"), &self.grid(), &args) }
    }

    fn grid(&self) -> Grid {
        each(self.m * self.c)
    }

    fn sizes(&self, q: usize, name: &'static str, out: usize) -> Result<Sizes> {
        if self.layers == 0 {
            let what = "there are no layers".to_string();
            return Err(KernelError::Size { op: OP, what });
        }
        check_count(OP, "q", q, self.layers * self.m * self.c)?;
        check_count(OP, name, out, 3 * self.m * self.c)?;
        Ok(Sizes {
            layers: small(OP, "layers", self.layers)?,
            n: small(OP, "m c", self.m * self.c)?,
        })
    }
}
