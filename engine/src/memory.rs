//! Tensor memory: a pool of recycled buffers and an account of memory use by category.
//!
//! Every training step requests the same sizes. Freed buffers go to a pool and serve the next
//! request of about their size, so the steady state takes nothing from the system. Every buffer is
//! booked under the category that was current on its thread at the time of the request
//! ([`with_category`]). If the system refuses a buffer, all idle buffers are given back to it and
//! the request is repeated. A second refusal unwinds ([`dressage_kernels::cpu::allocate`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dressage_kernels::cpu::allocate::{OutOfMemory, unwind, zeroed};
use dressage_kernels::cpu::scratch;
use memmap2::{MmapMut, MmapOptions};

use crate::ambient;

pub use crate::device::{reset_peak_on, usage_on};

/// The purpose of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Frozen and trained parameters.
    Weights,
    /// First and second moments of the optimiser.
    Optimiser,
    /// Gradients and values of a backward pass.
    Gradients,
    /// Values of a forward pass, saved ones included.
    Activations,
    /// Batches, labels, sampled points.
    Data,
}

impl Category {
    /// Name of the category, for errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Category::Weights => "weights",
            Category::Optimiser => "optimiser",
            Category::Gradients => "gradients",
            Category::Activations => "activations",
            Category::Data => "data",
        }
    }
}

/// The current category of this thread.
pub(crate) fn current_category() -> Category {
    ambient::read(|ambient| ambient.category)
}

/// All categories, in the order of [`Usage::bytes`].
pub const CATEGORIES: [Category; 5] = [
    Category::Weights,
    Category::Optimiser,
    Category::Gradients,
    Category::Activations,
    Category::Data,
];

/// One cache line; buffers are aligned to it, so vector loads never straddle lines.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory of a buffer.
enum Memory {
    Owned(Vec<Line>),
    /// Address space of a dry run; the system adds memory only when it is written.
    Reserved(MmapMut),
}

impl Memory {
    fn lines(&self) -> usize {
        match self {
            Memory::Owned(lines) => lines.len(),
            Memory::Reserved(map) => map.len() / size_of::<Line>(),
        }
    }
}

/// Lines below which a buffer of a dry run is real memory: a mapping takes at least a page.
const RESERVE: usize = 1 << 10;

/// An owned, recycled piece of memory.
pub(crate) struct Buffer {
    memory: Memory,
    category: Category,
    /// `None` for the ledger of the process.
    ledger: Option<Arc<Ledger>>,
}

/// The account and the pool.
pub(crate) struct Ledger(Mutex<State>);

struct State {
    /// Idle buffers by number of lines.
    free: BTreeMap<usize, Vec<Memory>>,
    usage: Usage,
}

static PROCESS: Ledger = Ledger::new();

/// A snapshot of the account. Bytes are those of live tensors, without idle buffers of the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Current bytes per category, in the order of [`CATEGORIES`].
    pub bytes: [usize; 5],
    /// Largest total since the last [`reset_peak`].
    pub peak: usize,
    /// Bytes per category at that time.
    pub at_peak: [usize; 5],
    /// Number of buffers taken from the system since the process began.
    pub from_system: u64,
    /// Bytes taken from the system and not given back: live and idle buffers.
    pub system_bytes: usize,
}

impl Usage {
    const NONE: Usage =
        Usage { bytes: [0; 5], peak: 0, at_peak: [0; 5], from_system: 0, system_bytes: 0 };

    /// Current bytes of all categories.
    pub fn total(&self) -> usize {
        self.bytes.iter().sum()
    }

    /// Books a taken buffer.
    pub(crate) fn book(&mut self, category: Category, bytes: usize) {
        self.bytes[category as usize] += bytes;
        self.note_peak();
    }

    /// Books a returned buffer.
    pub(crate) fn unbook(&mut self, category: Category, bytes: usize) {
        self.bytes[category as usize] -= bytes;
    }

    pub(crate) fn reset_peak(&mut self) {
        (self.peak, self.at_peak) = (self.total(), self.bytes);
    }

    fn note_peak(&mut self) {
        let total = self.total();
        if total > self.peak {
            (self.peak, self.at_peak) = (total, self.bytes);
        }
    }
}

/// The current account: that of the dry run within one, otherwise that of the process.
pub fn usage() -> Usage {
    with_ledger(|ledger, _| ledger.state().usage)
}

/// Starts a new measurement of the peak.
pub fn reset_peak() {
    with_ledger(|ledger, _| ledger.state().usage.reset_peak());
}

/// Gives the pool's idle buffers back to the system.
pub fn trim() {
    with_ledger(|ledger, _| ledger.state().give_back());
}

/// Calls `f` with the current ledger, first as a reference, then as an `Arc` for a dry run.
fn with_ledger<R>(f: impl FnOnce(&Ledger, Option<&Arc<Ledger>>) -> R) -> R {
    ambient::read(|ambient| match &ambient.ledger {
        Some(ledger) => f(ledger, Some(ledger)),
        None => f(&PROCESS, None),
    })
}

/// Runs `f` with all its requests on this thread booked in `ledger`, as reserved buffers.
pub(crate) fn with_ledger_of_dry_run<R>(ledger: &Arc<Ledger>, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.ledger = Some(Arc::clone(ledger)), f)
}

/// Runs `f` with the buffers it takes on this thread booked under `category`.
pub fn with_category<R>(category: Category, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.category = category, f)
}

/// Rounds a size up by at most 1/32. Token counts are often just above powers of two, so coarser
/// steps would waste much memory. Sizes that vary a little still share buffers, since a request
/// accepts one that is up to a quarter larger.
fn rounded(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 64).max(1);
    lines.div_ceil(step) * step
}

impl Ledger {
    pub(crate) const fn new() -> Ledger {
        Ledger(Mutex::new(State { free: BTreeMap::new(), usage: Usage::NONE }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.state().usage
    }

    /// Takes an idle buffer of at least `want` lines, or a fresh one, and books it.
    fn take(&self, want: usize, category: Category, reserve: bool) -> Memory {
        let mut state = self.state();
        let memory = match state.recycled(want) {
            Some(memory) => memory,
            None => match state.taken(rounded(want), reserve) {
                Ok(memory) => memory,
                Err(refused) => {
                    drop(state);
                    unwind(refused)
                }
            },
        };
        state.usage.book(category, memory.lines() * size_of::<Line>());
        memory
    }
}

/// Allocates `n` lines of zeros.
fn fresh(n: usize, reserve: bool) -> Result<Memory, OutOfMemory> {
    let map = || MmapOptions::new().len(n * size_of::<Line>()).no_reserve_swap().map_anon().ok();
    match reserve.then(map).flatten() {
        Some(map) => Ok(Memory::Reserved(map)),
        None => zeroed(n).map(Memory::Owned),
    }
}

impl State {
    /// Allocates a buffer of `n` lines. If the system has no memory left, idle buffers are given
    /// back first.
    fn taken(&mut self, n: usize, reserve: bool) -> Result<Memory, OutOfMemory> {
        let reserve = reserve && n >= RESERVE;
        let memory = fresh(n, reserve).or_else(|_| {
            self.give_back();
            scratch::trim();
            fresh(n, reserve)
        })?;
        self.usage.from_system += 1;
        self.usage.system_bytes += n * size_of::<Line>();
        Ok(memory)
    }

    /// Gives idle buffers back to the system.
    fn give_back(&mut self) {
        let idle: usize = self.free.iter().map(|(n, list)| n * list.len()).sum();
        self.usage.system_bytes -= idle * size_of::<Line>();
        self.free.clear();
    }

    /// The smallest idle buffer with `want` lines or up to a quarter more.
    fn recycled(&mut self, want: usize) -> Option<Memory> {
        let size = *self.free.range(want..=want + want / 4 + 1).next()?.0;
        let list = self.free.get_mut(&size)?;
        let memory = list.pop();
        if list.is_empty() {
            self.free.remove(&size);
        }
        memory
    }
}

impl Buffer {
    /// A buffer of at least `bytes` bytes. Recycled memory keeps its old content.
    pub(crate) fn take(bytes: usize) -> Buffer {
        let want = bytes.div_ceil(size_of::<Line>()).max(1);
        let category = current_category();
        with_ledger(|ledger, dry_run| Buffer {
            memory: ledger.take(want, category, dry_run.is_some()),
            category,
            ledger: dry_run.cloned(),
        })
    }

    /// Whether it has no memory behind it yet; it then reads as zeros.
    pub(crate) fn reserved(&self) -> bool {
        matches!(self.memory, Memory::Reserved(_))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Owned(lines) => bytemuck::cast_slice(lines),
            Memory::Reserved(map) => map,
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Owned(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Reserved(map) => map,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Owned(Vec::new()));
        let mut state = self.ledger.as_deref().unwrap_or(&PROCESS).state();
        let lines = memory.lines();
        state.usage.unbook(self.category, lines * size_of::<Line>());
        state.free.entry(lines).or_default().push(memory);
    }
}

#[cfg(test)]
mod tests {
    use dressage_kernels::cpu::allocate::catch;

    use super::*;

    #[test]
    fn sizes_round_up_by_little() {
        for n in 1..5000 {
            let r = rounded(n);
            assert!(r >= n && r as f64 <= n as f64 * (1.0 + 1.0 / 32.0) + 1.0, "{n} -> {r}");
            assert_eq!(rounded(r), r);
        }
    }

    #[test]
    fn a_refused_buffer_leaves_the_account_as_it_was() {
        let ledger = Ledger::new();
        let lines = ledger.take(100, Category::Data, false).lines();
        let before = ledger.usage();
        assert_eq!(before.system_bytes, lines * size_of::<Line>());
        let huge = 1 << 52;
        let refused = catch(|| ledger.take(huge, Category::Data, false).lines());
        assert_eq!(refused, Err(OutOfMemory { bytes: huge * size_of::<Line>() }));
        assert_eq!(ledger.usage(), before);
    }

    #[test]
    fn a_dropped_buffer_comes_back() {
        // A size that no other test uses, since tests share the pool.
        let bytes = 7_654_321;
        let at = Buffer::take(bytes).bytes().as_ptr();
        let again = Buffer::take(bytes - 1000);
        assert_eq!(again.bytes().as_ptr(), at);
    }
}
