//! Launch of `uncertain_points.cu`.

use super::{Select, UncertainPoints};
use crate::Result;
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::small;
use crate::device::{Device, Float, Grid, Module};

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

impl<'a, T: Float> Launch<'a> for Select<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &UncertainPoints, device: &Device) -> Result<()> {
        let size = |name, n| small(UncertainPoints::NAME, name, n);
        let sizes = Sizes {
            r: size("r", s.r)?,
            n_over: size("n_over", s.n_over)?,
            keep: size("keep", s.keep)?,
            n_rand: size("n_rand", s.n_rand)?,
        };
        size("numbers of a row", s.row())?;
        let args = arguments(&sizes, s, self);
        // SAFETY: the lengths were checked; block i takes row i and keeps exactly `keep` points.
        unsafe { device.launch(&PTX.kernel("uncertain_points"), &Grid::line(s.r, 1, 512), &args) }
    }
}
