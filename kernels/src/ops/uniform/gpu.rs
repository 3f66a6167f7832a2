//! Launch of `uniform.cu`.

use super::{Fill, Stream, Uniform};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("uniform", include_str!("../../../ptx/uniform.ptx"));

/// Threads per block.
const THREADS: usize = 256;

/// Mirrors `Uniform` in `uniform.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    stream: Stream,
    rows: u32,
    draws: u32,
}

impl<'a, T: Float> Launch<'a> for Fill<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Uniform, device: &Device) -> Result<()> {
        if s.is_empty() {
            return Ok(());
        }
        let sizes = Sizes {
            stream: Stream::of(s.seed, s.purpose, s.first),
            rows: small(Uniform::NAME, "rows", s.rows)?,
            draws: small(Uniform::NAME, "draws", s.draws)?,
        };
        // A row that does not begin at a block boundary uses one block more than it fills.
        let blocks = (s.draws.div_ceil(4) + 1).div_ceil(THREADS);
        let grid = Grid::new([blocks, s.rows, s.streams], [THREADS as u32, 1, 1]);
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; draws before and after a row are not stored.
        unsafe { device.launch(&PTX.kernel("uniform_fill"), &grid, &args) }
    }
}
