//! Launch of `match_cost.cu`.

use super::{Forward, MatchCost};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

static PTX: Module = Module::new("match_cost", include_str!("../../../ptx/match_cost.ptx"));

/// Targets per block; equals `TARGETS` in `match_cost.cu`.
const TARGETS: usize = 4;

/// Mirrors `MatchCost` in `match_cost.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    q: u32,
    g: u32,
    k: u32,
    p: u32,
    class_weight: f32,
    mask_weight: f32,
    dice_weight: f32,
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MatchCost, device: &Device) -> Result<()> {
        let size = |name, n| small(MatchCost::NAME, name, n);
        let sizes = Sizes {
            b: size("b", s.b)?,
            q: size("q", s.q)?,
            g: size("g", s.g)?,
            k: size("k", s.k)?,
            p: size("p", s.p)?,
            class_weight: s.class_weight as f32,
            mask_weight: s.mask_weight as f32,
            dice_weight: s.dice_weight as f32,
        };
        let args = arguments(&sizes, s, self);
        let grid = Grid::new([s.g.div_ceil(TARGETS), s.q, s.b], [256, 1, 1]);
        // SAFETY: the lengths were checked; labels beyond the classes are not read.
        unsafe { device.launch(&PTX.kernel_of::<T>("match_cost"), &grid, &args) }
    }
}
