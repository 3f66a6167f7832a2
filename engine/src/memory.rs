//! Tensor memory: a pool of recycled buffers and an account of who holds how much.
//!
//! A training step asks for the same sizes again and again. Freed buffers go to a pool and come
//! back to the next request of about their size, so the steady state takes nothing from the
//! system. Every buffer is booked under the category that was current on its thread when it was
//! taken ([`with_category`]). A buffer that the system refuses, also after all idle ones were given
//! back, unwinds ([`dressage_kernels::allocate`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dressage_kernels::allocate::{OutOfMemory, unwind, zeroed};
use dressage_kernels::scratch;
use memmap2::{MmapMut, MmapOptions};

use crate::ambient;

pub use crate::device::{reset_peak_on, usage_on};

/// What a buffer is held for.
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
    /// Its name, for errors.
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

/// The category in force on this thread.
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
    /// Address space of a dry run, which the system backs with nothing until it is written.
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

/// Smaller buffers of a dry run are real memory: a mapping takes a page at least.
const RESERVE: usize = 1 << 10;

/// An owned, recycled piece of memory.
pub(crate) struct Buffer {
    memory: Memory,
    category: Category,
    /// `None` for that of the process.
    ledger: Option<Arc<Ledger>>,
}

/// Who holds how much, and the pool.
pub(crate) struct Ledger(Mutex<State>);

struct State {
    /// Idle buffers by lines.
    free: BTreeMap<usize, Vec<Memory>>,
    usage: Usage,
}

static PROCESS: Ledger = Ledger::new();

/// A snapshot of the account. Bytes are those of tensors alive, not of the pool behind them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes held now, per category, in the order of [`CATEGORIES`].
    pub bytes: [usize; 5],
    /// Largest sum held at any time since the last [`reset_peak`].
    pub peak: usize,
    /// Bytes per category at that time.
    pub at_peak: [usize; 5],
    /// Buffers taken from the system since the process began.
    pub from_system: u64,
    /// Bytes taken from the system and not given back: live buffers and the pool.
    pub system_bytes: usize,
}

impl Usage {
    const NONE: Usage =
        Usage { bytes: [0; 5], peak: 0, at_peak: [0; 5], from_system: 0, system_bytes: 0 };

    /// Bytes held now in all categories.
    pub fn total(&self) -> usize {
        self.bytes.iter().sum()
    }

    /// A buffer was taken.
    pub(crate) fn book(&mut self, category: Category, bytes: usize) {
        self.bytes[category as usize] += bytes;
        self.note_peak();
    }

    /// A buffer was given back.
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

/// The account now: that of the process, within a dry run that of the dry run.
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

/// Calls `f` with the ledger in force, the second time as something to hold on to.
fn with_ledger<R>(f: impl FnOnce(&Ledger, Option<&Arc<Ledger>>) -> R) -> R {
    ambient::read(|ambient| match &ambient.ledger {
        Some(ledger) => f(ledger, Some(ledger)),
        None => f(&PROCESS, None),
    })
}

/// Books everything that `f` does on this thread in `ledger`, with buffers that are only reserved.
pub(crate) fn with_ledger_of_dry_run<R>(ledger: &Arc<Ledger>, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.ledger = Some(Arc::clone(ledger)), f)
}

/// Books the buffers that `f` takes on this thread under `category`.
pub fn with_category<R>(category: Category, f: impl FnOnce() -> R) -> R {
    ambient::with(|ambient| ambient.category = category, f)
}

/// Sizes are rounded up to at most a thirty-second more: token counts lie just above powers of two,
/// so coarser steps would waste much. Sizes that vary a little share buffers nonetheless, since a
/// request takes one that is up to a quarter larger.
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

    /// An idle buffer of at least `want` lines or a fresh one; booked either way.
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

/// `n` lines of zeros.
fn fresh(n: usize, reserve: bool) -> Result<Memory, OutOfMemory> {
    let map = || MmapOptions::new().len(n * size_of::<Line>()).no_reserve_swap().map_anon().ok();
    match reserve.then(map).flatten() {
        Some(map) => Ok(Memory::Reserved(map)),
        None => zeroed(n).map(Memory::Owned),
    }
}

impl State {
    /// A fresh buffer of `n` lines; where the system has no more, what lies idle goes back first.
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

    /// The smallest idle buffer of `want` lines or up to a quarter more.
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

    /// Whether there is no memory behind it yet, which reads as zeros.
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
    use dressage_kernels::allocate::catch;

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
        let before = usage().from_system;
        let again = Buffer::take(bytes - 1000);
        assert_eq!(again.bytes().as_ptr(), at);
        assert!(usage().from_system >= before);
    }
}
