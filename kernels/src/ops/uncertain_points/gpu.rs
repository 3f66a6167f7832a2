//! Launch of `uncertain_points.cu`.

use super::UncertainPoints;
use crate::device::sizes::small;
use crate::device::{Args, Device, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

static PTX: Module =
    Module::new("uncertain_points", include_str!("../../../ptx/uncertain_points.ptx"));

/// Mirrors `UncertainPoints` in `uncertain_points.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    r: u32,
    n_over: u32,
    keep: u32,
    n_rand: u32,
}

impl UncertainPoints {
    /// [`UncertainPoints::select`] on a device, bitwise equal to the CPU. One launch.
    ///
    /// # Errors
    /// A view whose length does not match the sizes; more points to keep than there are; a failure
    /// of the device.
    pub fn select_gpu(
        &self,
        device: &Device,
        logits: View<'_, f32>,
        points: View<'_, f32>,
        random: View<'_, f32>,
        out: ViewMut<'_, f32>,
    ) -> Result<()> {
        if self.keep > self.n_over {
            let what = format!("{} of {} points cannot be kept", self.keep, self.n_over);
            return Err(KernelError::Size { op: "uncertain_points", what });
        }
        let row = 2 * (self.keep + self.n_rand);
        for (name, found, expected) in [
            ("logits", logits.len(), self.r * self.n_over),
            ("points", points.len(), self.r * self.n_over * 2),
            ("random", random.len(), self.r * self.n_rand * 2),
            ("out", out.len(), self.r * row),
        ] {
            check_count("uncertain_points", name, found, expected)?;
        }
        let size = |name, n| small("uncertain_points", name, n);
        let sizes = Sizes {
            r: size("r", self.r)?,
            n_over: size("n_over", self.n_over)?,
            keep: size("keep", self.keep)?,
            n_rand: size("n_rand", self.n_rand)?,
        };
        size("numbers of a row", row)?;
        let args = Args::new(&sizes).read(logits).read(points).read(random).write(out);
        // SAFETY: the lengths were checked; block i takes row i and keeps exactly `keep` points.
        unsafe {
            device.launch(&PTX.kernel("uncertain_points"), &Grid::line(self.r, 1, 512), &args)
        }
    }
}
