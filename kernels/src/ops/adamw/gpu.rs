//! Launch of `adamw.cu`: all tensors of a step at once.

use half::bf16;

use super::AdamW;
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

pub(super) static PTX: Module = Module::new("adamw", include_str!("../../../ptx/adamw.ptx"));

/// Elements of a tensor per block. A tensor of 256 x 256 then fills 16 blocks, and the table of the
/// 20 million weights of a head is 300 KB.
pub(super) const CHUNK: usize = 4096;

/// Number of fields of `Constants` in `adamw.cu`.
const CONSTANTS: usize = 9;

/// Mirrors `AdamW` in `adamw.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    chunks: u32,
    groups: u32,
}

/// Mirrors `Chunk` in `adamw.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
struct Chunk {
    p: u64,
    m: u64,
    v: u64,
    g: u64,
    copy: u64,
    average: u64,
    n: u32,
    group: u32,
}

/// One tensor of a step; all views have the same length.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// Weights, updated.
    pub p: ViewMut<'a, f32>,
    /// First moments, updated.
    pub m: ViewMut<'a, f32>,
    /// Second moments, updated.
    pub v: ViewMut<'a, f32>,
    /// Gradient.
    pub g: View<'a, f32>,
    /// Working copy of the weights that the products read, overwritten.
    pub copy: Option<ViewMut<'a, bf16>>,
    /// Average of the weights over the updates, updated.
    pub average: Option<ViewMut<'a, f32>>,
    /// Index of its group among the constants of the step.
    pub group: usize,
}

/// Table of addresses on a device, which is uploaded only when it changes.
#[derive(Debug)]
pub(super) struct Table<C> {
    /// Contents of `there`; empty if they are unknown.
    host: Vec<C>,
    there: Option<Buffer<u64>>,
}

impl<C> Default for Table<C> {
    fn default() -> Table<C> {
        Table { host: Vec::new(), there: None }
    }
}

impl<C: PartialEq + bytemuck::Pod> Table<C> {
    /// Writes `chunks` unless they are there, in a copy that is part of the graph of a capture.
    pub fn write(&mut self, device: &Device, chunks: Vec<C>) -> Result<View<'_, u64>> {
        if self.there.is_none() || self.host != chunks {
            let words = bytemuck::cast_slice::<C, u64>(&chunks);
            // The old table is freed first, so that a capture, which cannot allocate new memory,
            // finds its block in the pool. In a graph the table is a constant: the addresses of its
            // own buffers.
            self.there = None;
            let mut table = device.alloc("adamw.table", words.len())?;
            device.write_constant(table.view_mut(), words)?;
            self.there = Some(table);
            // A captured copy takes effect only at a replay, which may never happen: the next
            // launch writes its own table.
            self.host = if device.is_capturing() { Vec::new() } else { chunks };
        }
        let none = || KernelError::Size { op: "adamw", what: "there is no table".into() };
        self.there.as_ref().map(Buffer::view).ok_or_else(none)
    }
}

/// Updates many tensors in one launch. Keeps the table of their addresses and the constants of the
/// step.
#[derive(Debug, Default)]
pub struct MultiAdamW {
    table: Table<Chunk>,
    constants: Option<Buffer<f32>>,
}

impl MultiAdamW {
    /// Applies update number `t` (from 1) to all tensors, each with the constants of its group. The
    /// result is bitwise equal to [`AdamW::update`]. It calls [`MultiAdamW::set_step`] and
    /// [`MultiAdamW::launch`].
    ///
    /// # Errors
    /// As these two.
    pub fn update(
        &mut self,
        device: &Device,
        t: u64,
        groups: &[AdamW],
        tensors: &mut [Tensor<'_>],
        guard: Option<View<'_, f32>>,
    ) -> Result<()> {
        self.set_step(device, t, groups)?;
        self.launch(device, tensors, guard, None)
    }

    /// Writes the constants of update `t` (from 1) of each group, for the launches that follow. It
    /// is one copy, to the same address in every step with the same number of groups, and does not
    /// wait.
    ///
    /// # Errors
    /// `t` of 0; a failure of the device.
    pub fn set_step(&mut self, device: &Device, t: u64, groups: &[AdamW]) -> Result<()> {
        if t == 0 {
            let what = "updates are counted from 1, not from 0".into();
            return Err(KernelError::Size { op: "adamw", what });
        }
        let words: Vec<f32> = groups.iter().flat_map(|group| group.words(t)).collect();
        match self.constants.as_mut().filter(|old| old.len() == words.len()) {
            Some(constants) => device.write(constants.view_mut(), &words)?,
            None => self.constants = Some(device.upload("adamw.constants", &words)?),
        }
        Ok(())
    }

    /// Updates all tensors with the constants that were written last. It is one launch, after a
    /// copy of the table of addresses if they have changed. In a capture the copy is part of the
    /// graph.
    ///
    /// If `guard` `[1]`, the loss of the step, is infinite or NaN, nothing changes. The device has
    /// to decide this itself. The host reads the loss only with the costs of the next step, since a
    /// step waits for the device once, before the loss is known. The host stops then, and the bad
    /// step has not changed the weights.
    ///
    /// If there is a `factor` `[2]`, its first element multiplies all gradients
    /// ([`ClipNorm`](super::ClipNorm)).
    ///
    /// # Errors
    /// Views of different lengths; a group that does not exist; constants that were never written;
    /// a guard that is not one element; a failure of the device.
    pub fn launch(
        &mut self,
        device: &Device,
        tensors: &mut [Tensor<'_>],
        guard: Option<View<'_, f32>>,
        factor: Option<View<'_, f32>>,
    ) -> Result<()> {
        check_count("adamw", "guard", guard.map_or(1, |guard| guard.len()), 1)?;
        check_count("adamw", "factor", factor.map_or(2, |factor| factor.len()), 2)?;
        let groups = self.constants.as_ref().map_or(0, |words| words.len() / CONSTANTS);
        let mut chunks = Vec::with_capacity(self.table.host.len());
        for tensor in tensors.iter() {
            cut(tensor, groups, &mut chunks)?;
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let count = chunks.len();
        let Some(constants) = &self.constants else { return Ok(()) };
        let table = self.table.write(device, chunks)?;
        let sizes = Sizes {
            chunks: small("adamw", "chunks", count)?,
            groups: small("adamw", "groups", groups)?,
        };
        let mut args = Args::new(&sizes).read(table).read(constants.view());
        args = args.read_if(guard).read_if(factor);
        for tensor in tensors {
            // Not parameters of the kernel: the table holds their addresses.
            args = args.behind(&tensor.p).behind(&tensor.m).behind(&tensor.v);
            args = args.behind_view(&tensor.g);
            if let Some(copy) = &tensor.copy {
                args = args.behind(copy);
            }
            if let Some(average) = &tensor.average {
                args = args.behind(average);
            }
        }
        let grid = Grid::line(count, 1, 256);
        // SAFETY: block i takes chunk i, which is within tensors that are borrowed here, with the
        // constants of a group that exists.
        unsafe { device.launch(&PTX.kernel("adamw_update"), &grid, &args) }
    }
}

/// Appends the chunks of one tensor.
fn cut(tensor: &Tensor<'_>, groups: usize, into: &mut Vec<Chunk>) -> Result<()> {
    let n = tensor.p.len();
    check_count("adamw", "m", tensor.m.len(), n)?;
    check_count("adamw", "v", tensor.v.len(), n)?;
    check_count("adamw", "g", tensor.g.len(), n)?;
    check_count("adamw", "copy", tensor.copy.as_ref().map_or(n, ViewMut::len), n)?;
    check_count("adamw", "average", tensor.average.as_ref().map_or(n, ViewMut::len), n)?;
    if tensor.group >= groups {
        let what = format!("group {} of {groups}; they are counted from 0", tensor.group);
        return Err(KernelError::Size { op: "adamw", what });
    }
    for start in (0..n).step_by(CHUNK) {
        let at = |address: u64, size: usize| address + (start * size) as u64;
        let copy = tensor.copy.as_ref().map_or(0, |copy| at(copy.address(), 2));
        into.push(Chunk {
            p: at(tensor.p.address(), 4),
            m: at(tensor.m.address(), 4),
            v: at(tensor.v.address(), 4),
            g: at(tensor.g.address(), 4),
            copy,
            average: tensor.average.as_ref().map_or(0, |average| at(average.address(), 4)),
            n: (n - start).min(CHUNK) as u32,
            group: tensor.group as u32,
        });
    }
    Ok(())
}

impl AdamW {
    /// Mirrors `Constants` in `adamw.cu`.
    fn words(&self, t: u64) -> [f32; CONSTANTS] {
        let k = self.constants::<f32>(t);
        [k.keep, k.beta1, k.rest1, k.beta2, k.rest2, k.step, k.root, k.eps, k.average]
    }
}
