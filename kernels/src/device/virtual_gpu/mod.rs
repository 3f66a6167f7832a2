//! The virtual device: ptx-vm runs the PTX, the CPU's matrix product replaces cuBLASLt.
//!
//! Each reservation is a separate memory with a name and nothing beyond its end. Reused memory is a
//! new one that was never written. So accesses out of bounds, reads of unwritten memory and late
//! accesses are found even where the pool would hide them.

mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;
use ptx_vm::{Address, Gpu, Launch, MemoryError, Module as Parsed};

use self::graph::{Step, VirtualGraphs};
use crate::device::backend::{Backend, Fused, GraphId, Product, Storage, mask_row};
use crate::device::module::Key;
use crate::device::{Grid, Kernel, Work};
use crate::ops::matmul::MatMul;
use crate::{KernelError, Result};

pub(super) struct VirtualGpu {
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub gpu: Gpu,
    pub graphs: VirtualGraphs,
    /// Kernels that ran at least once.
    pub launched: HashSet<Key>,
    /// Whether products have no epilogues.
    unfused: bool,
    modules: HashMap<&'static str, Parsed>,
    work: Work,
}

pub(super) fn failed(action: &'static str) -> impl Fn(MemoryError) -> KernelError {
    move |error| KernelError::Device { device: NAME.into(), action, what: error.to_string() }
}

const NAME: &str = "the virtual GPU";

impl VirtualGpu {
    pub fn new() -> VirtualGpu {
        VirtualGpu { state: Mutex::default() }
    }

    /// A device whose products have no epilogues.
    #[cfg(test)]
    pub(crate) fn without_epilogues() -> VirtualGpu {
        VirtualGpu { state: Mutex::new(State { unfused: true, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for VirtualGpu {
    fn name(&self) -> String {
        NAME.into()
    }

    fn granularity(&self) -> usize {
        1
    }

    fn reserve(&self, name: &'static str, bytes: usize) -> Result<Option<u64>> {
        Ok(Some(self.state().gpu.alloc(name, bytes).0))
    }

    fn renew(&self, name: &'static str, address: u64, bytes: usize) -> Result<u64> {
        let gpu = &mut self.state().gpu;
        gpu.free(Address(address)).map_err(failed("reuse memory"))?;
        Ok(gpu.alloc(name, bytes).0)
    }

    fn release(&self, address: u64, _: usize) {
        // The pool releases each address once; an error could not be reported.
        let _ = self.state().gpu.free(Address(address));
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.state().gpu.write(Address(to), bytes).map_err(failed("write"))
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.state().gpu.read(Address(from), bytes).map_err(failed("read"))
    }

    fn zero(&self, to: u64, bytes: usize) -> Result<()> {
        self.state().queue(Step::Zero { to, bytes })
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.state().queue(Step::Copy { from, to, bytes })
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, grid: &Grid, params: &[u8]) -> Result<()> {
        let (kernel, grid, params) = (*kernel, *grid, params.into());
        self.state().queue(Step::Launch { kernel, grid, params })
    }

    fn product(&self, product: &Product) -> Result<bool> {
        self.state().queue(Step::Product(*product)).map(|()| true)
    }

    fn fits(&self, product: &Product) -> Result<bool> {
        Ok(product.fused == Fused::Nothing || !self.state().unfused)
    }

    fn begin_capture(&self) -> Result<()> {
        self.state().graphs.begin();
        Ok(())
    }

    fn end_capture(&self, keep: bool) -> Result<Option<GraphId>> {
        Ok(self.state().graphs.end(keep))
    }

    fn record_renewal(&self, name: &'static str, address: u64) {
        let state = &mut *self.state();
        state.graphs.recording().into_iter().for_each(|s| s.push(Step::Renew { name, address }));
    }

    fn record_write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.state().queue(Step::Write { to, bytes: bytes.into() })
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        let state = &mut *self.state();
        let steps = state.graphs.get(graph)?;
        steps.iter().try_for_each(|step| state.run(step))
    }

    fn forget(&self, graph: GraphId) {
        self.state().graphs.forget(graph);
    }

    fn work(&self) -> Option<Work> {
        Some(self.state().work)
    }
}

impl State {
    pub fn launch(&mut self, kernel: &Kernel, grid: &Grid, params: &[u8]) -> Result<()> {
        let State { gpu, modules, work, launched, .. } = self;
        let source = kernel.module;
        if !modules.contains_key(source.name()) {
            let parsed = Parsed::parse(source.name(), source.text());
            let parsed = parsed.map_err(|error| grid.refused(kernel, error.to_string()))?;
            modules.insert(source.name(), parsed);
        }
        let launch = Launch {
            grid: grid.blocks.map(|n| n as u32),
            block: grid.threads,
            dynamic_shared: grid.shared as u32,
            params,
        };
        let name = kernel.full_name();
        let report = gpu
            .launch(&modules[source.name()], &name, &launch)
            .map_err(|fault| grid.refused(kernel, fault.to_string()))?;
        launched.insert(kernel.key());
        work.instructions += report.counters.thread_instructions();
        work.global_bytes += report.counters.global_bytes;
        work.global_bytes_moved += report.counters.global_bytes_moved;
        work.bank_conflicts += report.counters.bank_conflicts;
        match &report.findings[..] {
            [] => Ok(()),
            [first, rest @ ..] => {
                let more = if rest.is_empty() {
                    String::new()
                } else {
                    format!(" (and {} findings of other kinds or places)", rest.len())
                };
                Err(grid.refused(kernel, format!("{first}{more}")))
            }
        }
    }

    pub fn product(&mut self, p: &Product) -> Result<()> {
        let s = &p.sizes;
        let span = |stride: usize, size: usize| (s.batch - 1) * stride + size;
        let gpu = &mut self.gpu;
        let a = floats(gpu, p.operands, p.a, span(s.stride_a, s.n * s.k))?;
        let b = floats(gpu, p.operands, p.b, span(s.stride_b, s.k * s.m))?;
        // Read even if it is overwritten: gaps between the products of a batch stay as they are.
        let mut c = floats(gpu, p.result, p.c, span(s.stride_c, s.n * s.m))?;
        s.run(f64::from(p.alpha), &a, &b, p.write, &mut c)?;
        match p.fused {
            Fused::Nothing => {}
            Fused::Bias(bias) => {
                let bias = floats(gpu, p.result, bias, s.m)?;
                c.chunks_mut(s.m).for_each(|row| finish(row, &bias, |y| y));
            }
            Fused::BiasRelu(bias) | Fused::BiasReluMask(bias, _) => {
                let bias = floats(gpu, p.result, bias, s.m)?;
                c.chunks_mut(s.m).for_each(|row| finish(row, &bias, |y| y.max(0.0)));
                if let Some(to) = p.fused.mask() {
                    gpu.write(Address(to), &mask(&c, s.m)).map_err(failed("multiply"))?;
                }
            }
            Fused::ReluBackward(from) => {
                let mut bits = vec![0; s.n * mask_row(s.m)];
                gpu.read(Address(from), &mut bits).map_err(failed("multiply"))?;
                for (row, bits) in c.chunks_mut(s.m).zip(bits.chunks(mask_row(s.m))) {
                    let is_set = |j: usize| bits[j / 8] >> (j % 8) & 1 == 1;
                    row.iter_mut()
                        .enumerate()
                        .filter(|&(j, _)| !is_set(j))
                        .for_each(|(_, y)| *y = 0.0);
                }
            }
            Fused::RowSums(sums) => store(gpu, p.result, sums, &row_sums(s, &a))?,
        }
        put(gpu, p, &c)
    }
}

/// Reads elements of a storage type as f32.
fn floats(gpu: &Gpu, storage: Storage, from: u64, len: usize) -> Result<Vec<f32>> {
    let from = Address(from);
    match storage {
        Storage::F32 => {
            let mut x = vec![0.0f32; len];
            gpu.read(from, bytemuck::cast_slice_mut(&mut x)).map_err(failed("multiply"))?;
            Ok(x)
        }
        Storage::Bf16 => {
            let mut x = vec![bf16::ZERO; len];
            gpu.read(from, bytemuck::cast_slice_mut(&mut x)).map_err(failed("multiply"))?;
            Ok(x.iter().map(|x| x.to_f32()).collect())
        }
    }
}

/// Writes the products of a batch, but not the gaps between them.
fn put(gpu: &mut Gpu, p: &Product, c: &[f32]) -> Result<()> {
    let size = p.sizes.n * p.sizes.m;
    for i in 0..p.sizes.batch {
        let start = i * p.sizes.stride_c;
        let c = &c[start..start + size];
        let width = match p.result {
            Storage::F32 => 4,
            Storage::Bf16 => 2,
        };
        store(gpu, p.result, p.c + (start * width) as u64, c)?;
    }
    Ok(())
}

/// Writes values, rounded to the storage type.
fn store(gpu: &mut Gpu, storage: Storage, to: u64, x: &[f32]) -> Result<()> {
    match storage {
        Storage::F32 => gpu.write(Address(to), bytemuck::cast_slice(x)),
        Storage::Bf16 => {
            let rounded: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            gpu.write(Address(to), bytemuck::cast_slice(&rounded))
        }
    }
    .map_err(failed("multiply"))
}

fn finish(row: &mut [f32], bias: &[f32], f: impl Fn(f32) -> f32) {
    row.iter_mut().zip(bias).for_each(|(y, b)| *y = f(*y + b));
}

/// Bits where values are positive, in rows of whole bytes.
fn mask(c: &[f32], m: usize) -> Vec<u8> {
    let mut bits = vec![0; c.len() / m * mask_row(m)];
    for (row, bits) in c.chunks(m).zip(bits.chunks_mut(mask_row(m))) {
        for (j, _) in row.iter().enumerate().filter(|&(_, &y)| y > 0.0) {
            bits[j / 8] |= 1 << (j % 8);
        }
    }
    bits
}

/// Sums of the rows of `op(A)`, in order of the depth.
fn row_sums(s: &MatMul, a: &[f32]) -> Vec<f32> {
    let at = |i: usize, j: usize| if s.trans_a { a[j * s.n + i] } else { a[i * s.k + j] };
    (0..s.n).map(|i| (0..s.k).map(|j| at(i, j)).sum()).collect()
}
