//! Launch of `adamw.cu`: all tensors of a step at once.

use half::bf16;

use super::AdamW;
use crate::device::sizes::small;
use crate::device::{Args, Buffer, Device, Grid, Module, View, ViewMut};
use crate::{KernelError, Result, check_count};

static PTX: Module = Module::new("adamw", include_str!("../../ptx/adamw.ptx"));

/// Elements of a tensor that a block takes. A tensor of 256 x 256 then fills 16 blocks, and the
/// table of the 20 million weights of a head is 300 KB.
const CHUNK: usize = 4096;

/// Numbers of `Constants` of `adamw.cu`.
const CONSTANTS: usize = 8;

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
    n: u32,
    group: u32,
}

/// One tensor of a step; all views have one length.
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
    /// The weights as the products read them, overwritten.
    pub copy: Option<ViewMut<'a, bf16>>,
    /// Which of the step's constants.
    pub group: usize,
}

/// Updates many tensors in one launch. Holds the table of their addresses, which is uploaded again
/// only when it changes, and the constants of the step.
#[derive(Debug, Default)]
pub struct MultiAdamW {
    /// What `table` holds; empty if it is not known to hold anything.
    host: Vec<Chunk>,
    table: Option<Buffer<u64>>,
    constants: Option<Buffer<f32>>,
}

impl MultiAdamW {
    /// Update number `t` (from 1) of all tensors: [`AdamW::update`] of each with the constants of
    /// its group, to the same bits. [`MultiAdamW::set_step`] and [`MultiAdamW::launch`].
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
        self.launch(device, tensors, guard)
    }

    /// Writes the constants that launches from here on read: those of update `t` (from 1), for each
    /// group. One copy, to the same address in every step with as many groups; does not wait.
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

    /// Updates all tensors with the constants that were written last. One launch, after a copy of
    /// the table of addresses where these have changed. In a capture the copy is part of the graph.
    ///
    /// If `guard` `[1]`, the loss of the step, is infinite or not a number, nothing changes. The
    /// device has to decide that by itself: the host learns the loss only with the next step's
    /// costs, since a step waits for the device once and the loss is not known by then. It stops
    /// there, with weights that the bad step has not touched.
    ///
    /// # Errors
    /// Views of different lengths; a group that is not there; constants that were never written; a
    /// guard that is not one number; a failure of the device.
    pub fn launch(
        &mut self,
        device: &Device,
        tensors: &mut [Tensor<'_>],
        guard: Option<View<'_, f32>>,
    ) -> Result<()> {
        check_count("adamw", "guard", guard.map_or(1, |guard| guard.len()), 1)?;
        let groups = self.constants.as_ref().map_or(0, |words| words.len() / CONSTANTS);
        let mut chunks = Vec::with_capacity(self.host.len());
        for tensor in tensors.iter() {
            cut(tensor, groups, &mut chunks)?;
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let count = chunks.len();
        if self.table.is_none() || self.host != chunks {
            let words = bytemuck::cast_slice::<Chunk, u64>(&chunks);
            // Given back first, so that a capture, which reserves nothing, finds its block. In a
            // graph the table is a constant: the addresses of its own buffers.
            self.table = None;
            let mut table = device.alloc("adamw.table", words.len())?;
            device.write_constant(table.view_mut(), words)?;
            self.table = Some(table);
            // What is captured lies there only after a replay, which may never come: the next
            // launch writes a table of its own.
            self.host = if device.is_capturing() { Vec::new() } else { chunks };
        }
        let (Some(table), Some(constants)) = (&self.table, &self.constants) else { return Ok(()) };
        let sizes = Sizes {
            chunks: small("adamw", "chunks", count)?,
            groups: small("adamw", "groups", groups)?,
        };
        let mut args = Args::new(&sizes).read(table.view()).read(constants.view()).read_if(guard);
        for tensor in tensors {
            // Not parameters of the kernel: the table holds their addresses.
            args = args.behind(&tensor.p).behind(&tensor.m).behind(&tensor.v);
            args = args.behind_view(&tensor.g);
            if let Some(copy) = &tensor.copy {
                args = args.behind(copy);
            }
        }
        let grid = Grid::line(count, 1, 256);
        // SAFETY: block i takes chunk i, which lies within tensors that are borrowed here, with the
        // constants of a group that is there.
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
        [k.keep, k.beta1, k.rest1, k.beta2, k.rest2, k.step, k.root, k.eps]
    }
}
