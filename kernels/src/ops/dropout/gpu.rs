//! Launch of `dropout.cu`.

use super::{Dropout, Forward};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{flat, small};
use crate::device::{Device, Float, Grid, Module};
use crate::ops::uniform::Stream;

static PTX: Module = Module::new("dropout", include_str!("../../../ptx/dropout.ptx"));

/// Mirrors `Dropout` in `dropout.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u64,
    stream: Stream,
    rate: f32,
    factor: f32,
    whole: u32,
    _padding: u32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Dropout, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        small(Dropout::NAME, "n", s.n)?;
        let sizes = Sizes {
            n: s.n as u64,
            stream: Stream::of(s.seed, Dropout::PURPOSE, s.sample()),
            rate: s.rate as f32,
            factor: s.factor(),
            whole: u32::from(s.whole),
            _padding: 0,
        };
        let line = flat(s.n);
        let grid = Grid { blocks: [line.blocks[0], 1, s.b], ..line };
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond an image do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("dropout"), &grid, &args) }
    }
}
