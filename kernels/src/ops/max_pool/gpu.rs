//! Launches of `max_pool.cu`.

use super::{Backward, Forward, MaxPool};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{each, small};
use crate::device::{Device, Float, Module};

static PTX: Module = Module::new("max_pool", include_str!("../../../ptx/max_pool.ptx"));

/// Elements per vector, as in `vectors.cuh`.
const VECTOR: usize = 8;

/// Mirrors `MaxPool` in `max_pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    h: u32,
    w: u32,
    c: u32,
    ho: u32,
    wo: u32,
    k: u32,
    stride: u32,
    pad: u32,
}

impl MaxPool {
    fn sizes(&self) -> Result<Sizes> {
        let size = |name, n| small(Self::NAME, name, n);
        let (ho, wo) = self.output()?;
        size("pixels and channels", self.b * self.h * self.w * self.c.next_multiple_of(VECTOR))?;
        Ok(Sizes {
            b: size("b", self.b)?,
            h: size("h", self.h)?,
            w: size("w", self.w)?,
            c: size("c", self.c)?,
            ho: size("ho", ho)?,
            wo: size("wo", wo)?,
            k: size("k", self.k)?,
            stride: size("stride", self.stride)?,
            pad: size("pad", self.pad)?,
        })
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MaxPool, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let sizes = s.sizes()?;
        let (ho, wo) = s.output()?;
        let grid = each(s.b * ho * wo * s.c.div_ceil(VECTOR));
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond the last window do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("max_pool_fwd"), &grid, &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MaxPool, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let sizes = s.sizes()?;
        let grid = each(s.b * s.h * s.w * s.c.div_ceil(VECTOR));
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond the last pixel do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("max_pool_bwd"), &grid, &args) }
    }
}
