//! The device: memory, variables of modules, launches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::ast::{Initial, Space};
use crate::error::{Fault, MemoryError};
use crate::exec::{Block, Launched, Outcome, vector};
use crate::launch::Launch;
use crate::memory::Memory;
use crate::module::Module;
use crate::report::{Finding, FindingKind, MAX_FINDINGS, Report};
use crate::touch::{self, Race};

/// Default number of steps after which a block is stopped.
const DEFAULT_LIMIT: u64 = 1 << 32;
/// Maximum threads of a block, and maximum shared memory of one (bytes), on GPUs of the years
/// 2020-24.
const MAX_THREADS: u64 = 1024;
const MAX_SHARED: u64 = 227 * 1024;
/// Maximum local memory of a thread in bytes.
const MAX_LOCAL: u64 = 512 * 1024;

/// An address in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// Returns the address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Address {
        Address(self.0.wrapping_add(bytes))
    }
}

/// A virtual GPU.
pub struct Gpu {
    memory: Memory,
    /// Addresses of variables by module
    variables: HashMap<u64, Vec<u64>>,
    limit: u64,
    races: bool,
    fast: bool,
}

impl Default for Gpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Gpu {
    /// Returns an empty device.
    pub fn new() -> Self {
        Self {
            memory: Memory::new(),
            variables: HashMap::new(),
            limit: DEFAULT_LIMIT,
            races: true,
            fast: vector::is_fast(),
        }
    }

    /// Sets the number of steps (instructions of its warps) after which a block is stopped as
    /// endless.
    pub fn set_instruction_limit(&mut self, steps: u64) {
        self.limit = steps;
    }

    /// Turns the search for races between blocks on (the default) or off.
    pub fn set_global_races(&mut self, on: bool) {
        self.races = on;
    }

    /// Uses portable code even if the CPU has AVX2; results are bitwise equal.
    pub fn set_portable(&mut self, portable: bool) {
        self.fast = !portable && vector::is_fast();
    }

    /// Allocates `bytes`; all of them are marked as never written.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> Address {
        Address(self.memory.alloc(name, bytes))
    }

    /// Frees an allocation. Its addresses are never reused, so later accesses are found.
    ///
    /// # Errors
    /// [`MemoryError::NotAStart`] if nothing is allocated at `address`.
    pub fn free(&mut self, address: Address) -> Result<(), MemoryError> {
        self.memory.free(address.0)
    }

    /// Renames an allocation in place; all its bytes are marked as never written. So memory can
    /// change its purpose at a fixed address, as it does in a recorded sequence of launches. If the
    /// address may change, [`Gpu::free`] and [`Gpu::alloc`] find more faults.
    ///
    /// # Errors
    /// [`MemoryError::NotAStart`] if nothing is allocated at `address`.
    pub fn renew(&mut self, address: Address, name: &str) -> Result<(), MemoryError> {
        self.memory.renew(address.0, name)
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// [`MemoryError`] if the bytes are not in one allocation.
    pub fn write(&mut self, address: Address, data: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(address.0, data)
    }

    /// Copies from the device; unwritten bytes read as 0xFF.
    ///
    /// # Errors
    /// [`MemoryError`] if the bytes are not in one allocation.
    pub fn read(&self, address: Address, out: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(address.0, out)
    }

    /// Sets `bytes` bytes to one value.
    ///
    /// # Errors
    /// [`MemoryError`] if the bytes are not in one allocation.
    pub fn fill(&mut self, address: Address, value: u8, bytes: usize) -> Result<(), MemoryError> {
        self.memory.range(address.0, bytes)?;
        let chunk = [value; 4096];
        for start in (0..bytes).step_by(chunk.len()) {
            let part = &chunk[..chunk.len().min(bytes - start)];
            self.memory.write(address.0 + start as u64, part)?;
        }
        Ok(())
    }

    /// Returns the address of a `__device__` or `__constant__` variable of a module, by its name in
    /// the PTX.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Option<Address> {
        let index = module.file.variables.iter().position(|v| v.name == name)?;
        let address = *self.place(module).get(index)?;
        (address != 0).then_some(Address(address))
    }

    /// Allocates and initialises a module's variables, once.
    fn place(&mut self, module: &Module) -> &[u64] {
        if !self.variables.contains_key(&module.id) {
            let variables = &module.file.variables;
            let mut addresses = Vec::with_capacity(variables.len());
            for v in variables {
                addresses.push(match v.space {
                    Space::Shared => 0,
                    _ => self.memory.alloc(&v.name, v.size as usize),
                });
            }
            for (v, &address) in variables.iter().zip(&addresses) {
                if address == 0 {
                    continue;
                }
                let width = v.ty.bytes();
                // Variables without initialiser start as zero.
                let mut data = vec![0u8; v.size as usize];
                for (item, to) in v.initial.iter().zip(data.chunks_exact_mut(width)) {
                    let value = match item {
                        Initial::Bits(bits) => *bits,
                        Initial::Address(name, by) => {
                            let at = variables.iter().position(|other| &other.name == name);
                            at.map_or(0, |i| addresses[i]).wrapping_add(*by as u64)
                        }
                    };
                    to.copy_from_slice(&value.to_le_bytes()[..width]);
                }
                // The allocation above is large enough: this cannot fail.
                let _ = self.memory.write(address, &data);
            }
            self.variables.insert(module.id, addresses);
        }
        &self.variables[&module.id]
    }

    /// Runs a kernel over its grid. Blocks run in parallel. Memory, counters and findings are the
    /// same for any number of threads if blocks do not race with each other.
    ///
    /// # Errors
    /// [`Fault`] if the launch does not fit the kernel, or if a block cannot continue.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        launch: &Launch,
    ) -> Result<Report, Fault> {
        let Some(index) = module.index(kernel) else {
            let known: Vec<_> = module.kernels().iter().map(|k| k.name.as_str()).collect();
            return Err(Fault::NoKernel {
                module: module.name.clone(),
                kernel: kernel.to_owned(),
                known: known.join(", "),
            });
        };
        check(module, index, launch)
            .map_err(|message| Fault::BadLaunch { kernel: kernel.to_owned(), message })?;
        self.place(module);
        let program = &module.programs[index];
        let [x, y, z] = launch.block;
        let launched = Launched {
            kernel,
            program,
            lines: &module.lines,
            memory: &self.memory,
            variables: &self.variables[&module.id],
            params: launch.params,
            grid: launch.grid,
            block: launch.block,
            threads: x * y * z,
            dynamic_shared: launch.dynamic_shared,
            limit: self.limit,
            races: self.races && !program.global_atomics && launch.grid != [1; 3],
            fast: self.fast,
        };
        merge(&launched, run(&launched))
    }
}

/// Maximum number of blocks of one task; bounds the memory of outcomes that wait to be merged.
const BLOCKS_A_TASK: usize = 64;

/// Runs all blocks; returns the merged outcome of each task, in the order of blocks.
fn run(launched: &Launched) -> Vec<Outcome> {
    let [gx, gy, gz] = launched.grid.map(|n| n as usize);
    let blocks = gx * gy * gz;
    let at = |n: usize| [(n % gx) as u32, (n / gx % gy) as u32, (n / (gx * gy)) as u32];
    if launched.program.ordered {
        return vec![run_range(launched, 0..blocks, &at, &AtomicUsize::new(usize::MAX))];
    }
    let first_stop = AtomicUsize::new(usize::MAX);
    let share = blocks.div_ceil(4 * rayon::current_num_threads()).clamp(1, BLOCKS_A_TASK);
    let tasks = blocks.div_ceil(share);
    let task = |n: usize| {
        let range = n * share..blocks.min((n + 1) * share);
        run_range(launched, range, &at, &first_stop)
    };
    (0..tasks).into_par_iter().map(task).collect()
}

fn run_range(
    launched: &Launched,
    range: std::ops::Range<usize>,
    at: &(dyn Fn(usize) -> [u32; 3] + Sync),
    first_stop: &AtomicUsize,
) -> Outcome {
    let mut block = Block::new(launched);
    let mut sum = Outcome::default();
    for n in range {
        // Only the first block that stops is reported; later blocks need not run.
        if first_stop.load(Ordering::Relaxed) < n {
            break;
        }
        let outcome = block.run(launched, at(n));
        let stopped = outcome.stopped.is_some();
        sum.append(outcome);
        if stopped {
            first_stop.fetch_min(n, Ordering::Relaxed);
            break;
        }
    }
    sum
}

fn merge(launched: &Launched, outcomes: Vec<Outcome>) -> Result<Report, Fault> {
    let mut sum = Outcome::default();
    for outcome in outcomes {
        sum.append(outcome);
        if let Some(finding) = sum.stopped {
            return Err(Fault::Stopped(finding));
        }
    }
    for race in touch::races(std::mem::take(&mut sum.touches)) {
        if sum.findings.len() < MAX_FINDINGS {
            sum.findings.push(between_blocks(launched, &race));
        }
    }
    Ok(Report { counters: sum.counters, findings: sum.findings })
}

/// Builds the finding about a race between blocks.
fn between_blocks(launched: &Launched, race: &Race) -> Finding {
    let [gx, gy, _] = launched.grid;
    let index = |n: u32| [n % gx, n / gx % gy, n / (gx * gy)];
    let (first, second) = (race.first, race.second);
    let text = launched.lines.get(second.line.saturating_sub(1) as usize);
    let near = launched.memory.at_or_before(race.address).map(|i| &launched.memory.list[i]);
    let [x, y, z] = index(first.block);
    let verb = if second.write { "writes" } else { "reads" };
    Finding {
        kind: FindingKind::GlobalRace,
        kernel: launched.kernel.to_owned(),
        line: second.line,
        instruction: text.map_or(String::new(), |t| t.trim().to_owned()),
        block: index(second.block),
        warp: u32::from(second.warp),
        lane: u32::from(second.lane),
        address: Some(race.address),
        place: near.map(|a| (a.name.clone(), race.address - a.base)),
        message: format!(
            "{verb} what block ({x}, {y}, {z}) writes at line {} in the same launch",
            first.line
        ),
        count: 1,
    }
}

impl Outcome {
    /// Adds the outcome of a later block.
    fn append(&mut self, other: Outcome) {
        self.counters.add(&other.counters);
        for finding in other.findings {
            let key = |f: &Finding| -> (FindingKind, u32) { (f.kind, f.line) };
            match self.findings.iter().position(|f| key(f) == key(&finding)) {
                Some(known) => self.findings[known].count += finding.count,
                None if self.findings.len() < MAX_FINDINGS => self.findings.push(finding),
                None => {}
            }
        }
        self.touches.extend(other.touches);
        self.stopped = other.stopped;
    }
}

/// Checks the launch against the kernel; the error is one sentence.
fn check(module: &Module, index: usize, launch: &Launch) -> Result<(), String> {
    let kernel = &module.kernels()[index];
    let program = &module.programs[index];
    let size = |v: [u32; 3]| v.iter().map(|&n| u64::from(n)).try_fold(1, u64::checked_mul);
    let threads = size(launch.block).unwrap_or(u64::MAX);
    let most = kernel.max_threads.map_or(MAX_THREADS, |n| u64::from(n).min(MAX_THREADS));
    if threads == 0 || threads > most {
        let block = launch.block;
        return Err(format!("a block of {block:?} threads, but 1 to {most} are possible"));
    }
    let blocks = size(launch.grid).unwrap_or(u64::MAX);
    if blocks == 0 || blocks > u64::from(u32::MAX) {
        return Err(format!("a grid of {:?} blocks", launch.grid));
    }
    let shared = program.static_shared + u64::from(launch.dynamic_shared);
    if shared > MAX_SHARED {
        return Err(format!("{shared} bytes of shared memory, a block has {MAX_SHARED}"));
    }
    if program.local_bytes > MAX_LOCAL {
        let local = program.local_bytes;
        return Err(format!("{local} bytes of local memory, a thread has {MAX_LOCAL}"));
    }
    let given = launch.params.len() as u64;
    if given != program.param_bytes {
        let needed = program.param_bytes;
        let count = kernel.params.len();
        return Err(format!(
            "{given} bytes of parameters, but its {count} parameters need {needed}"
        ));
    }
    Ok(())
}
