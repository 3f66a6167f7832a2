//! Launches of `ms_deform_attn.cu`.
//!
//! Features (`value`, `out` and their gradients) are stored as f32 or bf16; offsets, logits and
//! weights are f32. `dvalue` is summed in 64-bit integers: the backward pass needs a workspace of 8
//! bytes per element and one atomic addition per tap and channel. docs/kernels.md has the cost and
//! the alternatives.

use super::{Backward, Forward, MsDeformAttn};
use crate::call::{Gpu, Launch, Operation, arguments};
use crate::device::sizes::{aligned, each, small};
use crate::device::{Args, Buffer, Device, Float, Grid, Module, View, ViewMut};
use crate::{KernelError, Result};

static PTX: Module = Module::new("ms_deform_attn", include_str!("../../../ptx/ms_deform_attn.ptx"));

/// Maximum levels; equals `DEFORM_LEVELS`.
const LEVELS: usize = 4;

/// Maximum points per head: one per lane of a warp.
const POINTS: usize = 32;

/// Maximum channels per head: four for each of the eight lanes that read a tap.
const CHANNELS: usize = 32;

/// Rows of (image, token, head) per block; equals `DEFORM_ROWS`.
const ROWS: usize = 8;

/// Mirrors `DeformSizes` in `ms_deform_attn.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    b: u32,
    tokens: u32,
    heads: u32,
    d: u32,
    levels: u32,
    points: u32,
    h: [u32; LEVELS],
    w: [u32; LEVELS],
    start: [u32; LEVELS],
}

impl MsDeformAttn {
    fn by_rows(&self) -> Grid {
        Grid::line(self.b * self.tokens() * self.heads, ROWS, 32 * ROWS as u32)
    }

    fn sizes(&self) -> Result<Sizes> {
        let refused = if self.levels.len() > LEVELS {
            Some(format!("{} levels; the GPU kernel takes up to {LEVELS}", self.levels.len()))
        } else if self.samples() > POINTS {
            Some(format!(
                "{} points of a head; the GPU kernel takes up to {POINTS}",
                self.samples()
            ))
        } else if self.d > CHANNELS || !self.d.is_multiple_of(4) {
            Some(format!("heads of {} channels; the GPU kernel takes 4, 8, .. {CHANNELS}", self.d))
        } else {
            None
        };
        if let Some(what) = refused {
            return Err(KernelError::Size { op: Self::NAME, what });
        }
        small(Self::NAME, "the number of features", self.features())?;
        let mut sizes = Sizes {
            b: small(Self::NAME, "b", self.b)?,
            tokens: small(Self::NAME, "the number of tokens", self.tokens())?,
            heads: small(Self::NAME, "heads", self.heads)?,
            d: self.d as u32,
            levels: self.levels.len() as u32,
            points: self.points as u32,
            h: [0; LEVELS],
            w: [0; LEVELS],
            start: [0; LEVELS],
        };
        for (l, (&(h, w), start)) in self.levels.iter().zip(self.starts()).enumerate() {
            (sizes.h[l], sizes.w[l], sizes.start[l]) = (h as u32, w as u32, start as u32);
        }
        Ok(sizes)
    }
}

impl<'a, T: Float> Launch<'a> for Forward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MsDeformAttn, device: &Device) -> Result<()> {
        let sizes = s.sizes()?;
        let [value, offsets] = [self.value.address(), self.offsets.address()];
        let out = ("out", self.out.address());
        aligned(MsDeformAttn::NAME, &[("value", value), ("offsets", offsets), out])?;
        let args = arguments(&sizes, s, self);
        let kernel = PTX.kernel_of::<T>("ms_deform_attn_forward");
        // SAFETY: the lengths were checked; a warp beyond the last row does nothing, and a tap
        // outside its level reads nothing.
        unsafe { device.launch(&kernel, &s.by_rows(), &args) }
    }
}

impl<'a, T: Float> Launch<'a> for Backward<'a, Gpu, T> {
    unsafe fn enqueue(self, s: &MsDeformAttn, device: &Device) -> Result<()> {
        let Backward { value, offsets, attn, dout, dvalue, doffsets, dlogits } = self;
        let sizes = s.sizes()?;
        aligned(
            MsDeformAttn::NAME,
            &[
                ("value", value.address()),
                ("offsets", offsets.address()),
                ("dout", dout.address()),
                ("doffsets", doffsets.as_ref().map_or(0, ViewMut::address)),
            ],
        )?;
        if dvalue.is_none() && doffsets.is_none() && dlogits.is_none() {
            return Ok(());
        }
        let mut sum = match dvalue {
            Some(_) => Some(FixedPoint::new(device, &sizes, dout)?),
            None => None,
        };
        let (peak, fixed) = match &mut sum {
            Some(sum) => (Some(sum.peak.view()), Some(sum.total.view_mut())),
            None => (None, None),
        };
        let args = Args::new(&sizes).read(value).read(offsets).read(attn).read(dout).read_if(peak);
        let args = args.write_if(fixed).write_if(doffsets).write_if(dlogits);
        let kernel = PTX.kernel_of::<T>("ms_deform_attn_backward");
        // SAFETY: as in the forward pass; the integers have the layout of `value`.
        unsafe { device.launch(&kernel, &s.by_rows(), &args)? };
        match (sum, dvalue) {
            (Some(sum), Some(dvalue)) => sum.settle(device, &sizes, dvalue),
            _ => Ok(()),
        }
    }
}

/// Sum in 64-bit integers: bitwise equal for any order of its terms.
struct FixedPoint {
    /// Largest magnitude of the terms, as the bits of an f32.
    peak: Buffer<u32>,
    total: Buffer<u64>,
}

/// Maximum blocks that search for the largest magnitude; each handles a part of all elements.
const PEAK_BLOCKS: usize = 1024;

impl FixedPoint {
    fn new<T: Float>(device: &Device, sizes: &Sizes, dout: View<'_, T>) -> Result<FixedPoint> {
        let mut peak = device.zeros("ms_deform_attn.peak", 1)?;
        let total = device.zeros("ms_deform_attn.fixed", dout.len())?;
        let blocks = dout.len().div_ceil(256).min(PEAK_BLOCKS);
        let args = Args::new(sizes).read(dout).write(peak.view_mut());
        let kernel = PTX.kernel_of::<T>("ms_deform_attn_peak");
        // SAFETY: the kernel reads as many elements as the sizes give; they were checked.
        unsafe { device.launch(&kernel, &Grid::new([blocks, 1, 1], [256, 1, 1]), &args)? };
        Ok(FixedPoint { peak, total })
    }

    fn settle<T: Float>(&self, device: &Device, sizes: &Sizes, out: ViewMut<'_, T>) -> Result<()> {
        let grid = each(out.len());
        let args = Args::new(sizes).read(self.total.view()).read(self.peak.view()).write(out);
        // SAFETY: one thread per element; threads beyond the last do nothing.
        unsafe { device.launch(&PTX.kernel_of::<T>("ms_deform_attn_settle"), &grid, &args) }
    }
}
