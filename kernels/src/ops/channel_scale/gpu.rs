//! Launch of `channel_scale.cu`.

use super::{ChannelScale, Forward};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{small, tile2d};
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("channel_scale", include_str!("../../../ptx/channel_scale.ptx"));

/// Mirrors `ChannelScale` in `channel_scale.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: u32,
    c: u32,
    tile_rows: u32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &ChannelScale, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let size = |name, n| small(ChannelScale::NAME, name, n);
        let (tiles, rows) = tile2d(s.n, s.c);
        let sizes =
            Sizes { n: size("n", s.n)?, c: size("c", s.c)?, tile_rows: size("rows", rows)? };
        let grid = Grid { blocks: [tiles.blocks[0], tiles.blocks[1], s.b], ..tiles };
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; threads beyond a row or the last row do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("channel_scale"), &grid, &args) }
    }
}
