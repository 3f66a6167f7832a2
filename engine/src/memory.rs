//! Tensor memory: a pool of recycled buffers and an account of who holds how much.
//!
//! A training step asks for the same sizes again and again. Freed buffers go to a pool and come
//! back to the next request of about their size, so the steady state takes nothing from the
//! system. Every buffer is booked under the category that was current on its thread when it was
//! taken ([`with_category`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// An owned, recycled piece of memory.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    category: Category,
}

static FREE: Mutex<BTreeMap<usize, Vec<Vec<Line>>>> = Mutex::new(BTreeMap::new());
static HELD: [AtomicUsize; 5] = [const { AtomicUsize::new(0) }; 5];
static PEAK: AtomicUsize = AtomicUsize::new(0);
static FROM_SYSTEM: AtomicU64 = AtomicU64::new(0);
static SYSTEM_BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CURRENT: Cell<Category> = const { Cell::new(Category::Activations) };
}

/// A snapshot of the account. Bytes are those of tensors alive, not of the pool behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes held now, per category, in the order of [`CATEGORIES`].
    pub bytes: [usize; 5],
    /// Largest sum held at any time since the last [`reset_peak`].
    pub peak: usize,
    /// Buffers taken from the system since the process began.
    pub from_system: u64,
    /// Bytes taken from the system and not given back: live buffers and the pool.
    pub system_bytes: usize,
}

impl Usage {
    /// Bytes held now in all categories.
    pub fn total(&self) -> usize {
        self.bytes.iter().sum()
    }
}

/// The account now.
pub fn usage() -> Usage {
    Usage {
        bytes: std::array::from_fn(|i| HELD[i].load(Ordering::Relaxed)),
        peak: PEAK.load(Ordering::Relaxed),
        from_system: FROM_SYSTEM.load(Ordering::Relaxed),
        system_bytes: SYSTEM_BYTES.load(Ordering::Relaxed),
    }
}

/// Starts a new measurement of the peak.
pub fn reset_peak() {
    PEAK.store(usage().total(), Ordering::Relaxed);
}

/// Gives the pool's idle buffers back to the system.
pub fn trim() {
    if let Ok(mut free) = FREE.lock() {
        let idle: usize = free.iter().map(|(n, list)| n * list.len() * 64).sum();
        SYSTEM_BYTES.fetch_sub(idle, Ordering::Relaxed);
        free.clear();
    }
}

/// Books the buffers that `f` takes on this thread under `category`.
pub fn with_category<R>(category: Category, f: impl FnOnce() -> R) -> R {
    struct Restore(Category);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(category));
    f()
}

/// Sizes are rounded up to eighths of a power of two, so that sizes which vary a little share
/// buffers.
fn rounded(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 16).max(1);
    lines.div_ceil(step) * step
}

impl Buffer {
    /// A buffer of at least `bytes` bytes. Recycled memory keeps its old content.
    pub(crate) fn take(bytes: usize) -> Buffer {
        let want = bytes.div_ceil(size_of::<Line>()).max(1);
        let lines = recycled(want).unwrap_or_else(|| {
            let n = rounded(want);
            FROM_SYSTEM.fetch_add(1, Ordering::Relaxed);
            SYSTEM_BYTES.fetch_add(n * size_of::<Line>(), Ordering::Relaxed);
            bytemuck::zeroed_vec(n)
        });
        let category = CURRENT.get();
        HELD[category as usize].fetch_add(lines.len() * size_of::<Line>(), Ordering::Relaxed);
        PEAK.fetch_max(usage().total(), Ordering::Relaxed);
        Buffer { lines, category }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// The smallest idle buffer of `want` lines or up to a quarter more.
fn recycled(want: usize) -> Option<Vec<Line>> {
    let mut free = FREE.lock().ok()?;
    let size = *free.range(want..=want + want / 4 + 1).next()?.0;
    let list = free.get_mut(&size)?;
    let lines = list.pop();
    if list.is_empty() {
        free.remove(&size);
    }
    lines
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let bytes = lines.len() * size_of::<Line>();
        HELD[self.category as usize].fetch_sub(bytes, Ordering::Relaxed);
        match FREE.lock() {
            Ok(mut free) => free.entry(lines.len()).or_default().push(lines),
            Err(_) => {
                SYSTEM_BYTES.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_by_less_than_an_eighth() {
        for n in 1..5000 {
            let r = rounded(n);
            assert!(r >= n && r as f64 <= n as f64 * 1.125 + 1.0, "{n} -> {r}");
            assert_eq!(rounded(r), r);
        }
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
