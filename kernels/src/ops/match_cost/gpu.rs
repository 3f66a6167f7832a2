//! Launch of `match_cost.cu`.

use super::MatchCost;
use crate::device::sizes::small;
use crate::device::{Args, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

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

impl MatchCost {
    /// [`MatchCost::compute`] on a device, for `b` images (or outputs of images) in one launch:
    /// `cls` `[b, q, k + 1]`, `labels` `[b, g]`, `x` `[b, q, p]`, `t` `[b, g, p]`, `cost` `[b, q,
    /// g]`. The labels are on the device and not checked: a target whose label is not in `0..k` is
    /// padding and costs 0, while the CPU version returns an error.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; no points; a failure of the device.
    pub fn compute_gpu<T: Float>(
        &self,
        device: &Device,
        b: usize,
        cls: View<'_, T>,
        labels: View<'_, i32>,
        x: View<'_, f32>,
        t: View<'_, f32>,
        cost: ViewMut<'_, f32>,
    ) -> Result<()> {
        for (name, found, expected) in [
            ("cls", cls.len(), b * self.q * (self.k + 1)),
            ("labels", labels.len(), b * self.g),
            ("x", x.len(), b * self.q * self.p),
            ("t", t.len(), b * self.g * self.p),
            ("cost", cost.len(), b * self.q * self.g),
        ] {
            check_count("match_cost", name, found, expected)?;
        }
        if self.p == 0 {
            return Err(KernelError::Size { op: "match_cost", what: "there are no points".into() });
        }
        let size = |name, n| small("match_cost", name, n);
        let sizes = Sizes {
            b: size("b", b)?,
            q: size("q", self.q)?,
            g: size("g", self.g)?,
            k: size("k", self.k)?,
            p: size("p", self.p)?,
            class_weight: self.class_weight as f32,
            mask_weight: self.mask_weight as f32,
            dice_weight: self.dice_weight as f32,
        };
        let args = Args::new(&sizes).read(cls).read(labels).read(x).read(t).write(cost);
        let grid = Grid::new([self.g.div_ceil(TARGETS), self.q, b], [256, 1, 1]);
        // SAFETY: the lengths were checked; labels beyond the classes are not read.
        unsafe { device.launch(&PTX.kernel_of::<T>("match_cost"), &grid, &args) }
    }
}
