//! Launches of `rotary.cu`.

use super::{OP, Pairs, Rotary, Turn};
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{Result, check_count};

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
    /// [`Rotary::apply`] on a device. One launch.
    ///
    /// # Errors
    /// As [`Rotary::apply`]; a failure of the device.
    pub fn apply_gpu<T: Float>(
        &self,
        device: &Device,
        qkv: ViewMut<'_, T>,
        table: View<'_, f32>,
        turn: Turn,
    ) -> Result<()> {
        self.check(qkv.len())?;
        check_count(OP, "table", table.len(), self.table_len())?;
        let row = self.heads * self.d;
        let sizes = Sizes {
            b: small(OP, "b", self.b)?,
            t: small(OP, "t", self.t)?,
            skip: small(OP, "skip", self.skip)?,
            d: small(OP, "d", self.d)?,
            width: small(OP, "a token", 2 * row)?,
            token: small(OP, "a token", 3 * row)?,
            sign: if turn == Turn::Back { -1.0 } else { 1.0 },
            unused: 0,
        };
        let (threads, name) = match self.pairs {
            Pairs::Neighbours => ((2 * row).div_ceil(VECTOR), OP),
            Pairs::Halves => (2 * self.heads * (self.d / 2).div_ceil(VECTOR), "rotary_halves"),
        };
        let blocks = threads.div_ceil(THREADS as usize);
        let grid = Grid::new([self.t - self.skip, blocks, 1], [THREADS, 1, 1]);
        let args = Args::new(&sizes).read(table).write(qkv);
        // SAFETY: the lengths were checked; vectors beyond the keys of a token do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>(name), &grid, &args) }
    }
}
