//! Launches of `rotary.cu`.

use super::{Pairs, Rotary, Rotate, Turn};
use crate::Result;
use crate::call::{Gpu, Launch, Operation};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module};

static PTX: Module = Module::new("rotary", include_str!("../../../ptx/rotary.ptx"));

/// Threads per block, and channels per thread.
const THREADS: u32 = 256;
const VECTOR: usize = 8;

/// Mirrors `Rotary` in `rotary.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    t: u32,
    skip: u32,
    d: u32,
    width: u32,
    token: u32,
    sign: f32,
    unused: u32,
}

impl Rotary {
    /// Name of the kernel.
    pub(super) fn kernel(&self) -> &'static str {
        match self.pairs {
            Pairs::Neighbours => "rotary",
            Pairs::Halves => "rotary_halves",
        }
    }
}

impl<'a, T: Float> Launch<'a> for Rotate<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &Rotary, device: &Device) -> Result<()> {
        let (row, size) = (s.heads * s.d, |name, n| small(Rotary::NAME, name, n));
        let sizes = Sizes {
            b: size("b", s.b)?,
            t: size("t", s.t)?,
            skip: size("skip", s.skip)?,
            d: size("d", s.d)?,
            width: size("a token", 2 * row)?,
            token: size("a token", 3 * row)?,
            sign: if s.turn == Turn::Back { -1.0 } else { 1.0 },
            unused: 0,
        };
        let threads = match s.pairs {
            Pairs::Neighbours => (2 * row).div_ceil(VECTOR),
            Pairs::Halves => 2 * s.heads * (s.d / 2).div_ceil(VECTOR),
        };
        let grid = Grid::new([s.cells, threads.div_ceil(THREADS as usize), 1], [THREADS, 1, 1]);
        let args = Args::new(&sizes).read(self.table).write(self.qkv);
        // SAFETY: the lengths were checked; vectors beyond the keys of a token do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(s.kernel()), &grid, &args) }
    }
}
