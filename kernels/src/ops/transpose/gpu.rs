//! Launch of `transpose.cu`.

use super::{Forward, TILE, Transpose};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("transpose", include_str!("../../../ptx/transpose.ptx"));

/// Threads of a block along y; equals `ROWS` in `transpose.cu`.
const ROWS: u32 = 8;

/// Mirrors `Transpose` in `transpose.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    m: u32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Transpose, device: &Device) -> Result<()> {
        let size = |name, n| small(Transpose::NAME, name, n);
        let args = arguments(&Sizes { n: size("n", s.n)?, m: size("m", s.m)? }, s, self);
        let tiles = [s.m.div_ceil(TILE), s.n.div_ceil(TILE), s.b];
        let grid = Grid::new(tiles, [TILE as u32, ROWS, 1]);
        // SAFETY: the lengths were checked; elements beyond the last row or column are skipped.
        unsafe { device.launch(&PTX.kernel_of::<T>("transpose"), &grid, &args) }
    }
}
