//! Launch of `row_width.cu`.

use super::{Resize, RowWidth};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("row_width", include_str!("../../../ptx/row_width.ptx"));

/// Mirrors `RowWidth` in `row_width.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    from: u32,
    to: u32,
    period: u32,
    scaled: u32,
    factor: f32,
}

impl<'a, T: Float> Launch<'a> for Resize<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &RowWidth, device: &Device) -> Result<()> {
        let elements = self.y.len();
        let size = |name, n| small(RowWidth::NAME, name, n);
        size("elements", elements.saturating_add(256))?;
        let sizes = Sizes {
            n: size("n", s.n)?,
            from: size("from", s.from)?,
            to: size("to", s.to)?,
            period: size("period", s.period)?,
            scaled: size("scaled", s.scaled)?,
            factor: s.factor,
        };
        let args = arguments(&sizes, s, self);
        let grid = Grid::line(elements, 256, 256);
        // SAFETY: the lengths were checked; threads beyond the last element do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("row_width"), &grid, &args) }
    }
}
