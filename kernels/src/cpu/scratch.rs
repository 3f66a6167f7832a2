//! Memory of tasks besides their arguments: reusable scratch, and buffers that several tasks fill.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Real;
use crate::cpu::allocate::{zeroed, zeroed_or_unwind};

type Memory = Vec<f64>;

/// Elements from which memory is shared by all threads. Smaller pieces stay with their thread, in
/// whose caches they are. Large pieces would accumulate on every thread that ever makes a large
/// call.
const LARGE: usize = 1 << 17;

/// Idle memory of one thread.
struct Idle(Vec<Memory>);

impl Drop for Idle {
    fn drop(&mut self) {
        let bytes: usize = self.0.iter().map(|memory| size_of_val(&memory[..])).sum();
        ALLOCATED.fetch_sub(bytes, Ordering::Relaxed);
    }
}

thread_local! {
    static IDLE: RefCell<Idle> = const { RefCell::new(Idle(Vec::new())) };
}

static IDLE_LARGE: Mutex<Vec<Memory>> = Mutex::new(Vec::new());
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of scratch memory of all threads together, idle or in use.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// Returns the idle scratch memory that all threads share to the system.
pub fn trim() {
    let idle = std::mem::take(&mut *large());
    let bytes: usize = idle.iter().map(|memory| size_of_val(&memory[..])).sum();
    ALLOCATED.fetch_sub(bytes, Ordering::Relaxed);
}

fn large() -> std::sync::MutexGuard<'static, Vec<Memory>> {
    IDLE_LARGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Idle memory for `needed` elements; it may be too small. Of the large pieces it is the smallest
/// that suffices, else the largest.
fn idle(needed: usize) -> Memory {
    if needed < LARGE {
        return IDLE.with_borrow_mut(|idle| idle.0.pop()).unwrap_or_default();
    }
    let mut idle = large();
    let fits = |m: &&(usize, usize)| m.1 >= needed;
    let sizes: Vec<(usize, usize)> = idle.iter().map(Vec::len).enumerate().collect();
    let best = sizes.iter().filter(fits).min_by_key(|m| m.1);
    let best = best.or_else(|| sizes.iter().max_by_key(|m| m.1));
    best.map(|m| idle.swap_remove(m.0)).unwrap_or_default()
}

/// Allocates from the system. If that is refused, idle memory is freed before a second try.
fn fresh(needed: usize) -> Memory {
    zeroed(needed).unwrap_or_else(|_| {
        trim();
        zeroed_or_unwind(needed)
    })
}

/// Calls `f` with `len` elements, which contain what the last user left.
///
/// The memory is kept for the next call, so a step after the first allocates none. A nested call
/// gets memory of its own, as does another task that rayon runs on this thread while one waits.
/// That memory is kept as well.
pub(crate) fn with<T: Real, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let needed = (len * size_of::<T>()).div_ceil(size_of::<f64>());
    let mut memory = idle(needed);
    if memory.len() < needed {
        // Not `resize`: the old contents need no copy, and spare capacity would be useless.
        ALLOCATED.fetch_sub(size_of_val(&memory[..]), Ordering::Relaxed);
        drop(memory);
        memory = fresh(needed);
        ALLOCATED.fetch_add(size_of_val(&memory[..]), Ordering::Relaxed);
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut memory[..needed])[..len]);
    if memory.len() < LARGE {
        IDLE.with_borrow_mut(|idle| idle.0.push(memory));
    } else {
        large().push(memory);
    }
    result
}

/// [`with`] for f32.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with(len, f)
}

/// The part of `x` that begins on a cache line; up to 15 elements in front of it are lost.
pub(crate) fn aligned(x: &mut [f32]) -> &mut [f32] {
    let skipped = x.as_ptr().align_offset(64).min(x.len());
    &mut x[skipped..]
}

/// Splits the first `len` elements off `rest`.
pub(crate) fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// A buffer in which parallel tasks write disjoint pieces that `chunks_mut` cannot describe. An
/// example is one head's channels of every row.
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice of floats; `piece` requires its callers to keep pieces disjoint.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Lends `x` to tasks for the lifetime of the value.
    pub(crate) fn new(x: &'a mut [f32]) -> Self {
        Self { start: x.as_mut_ptr(), len: x.len(), borrow: PhantomData }
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// No other live piece, on any thread, may contain one of these elements.
    ///
    /// # Panics
    /// If the piece is not within the buffer.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn piece(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "piece outside of the buffer");
        // SAFETY: the piece is within the buffer, as just checked, and disjoint from all others, as
        // the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_call_has_memory_of_its_own() {
        with_scratch(10, |a| {
            a.fill(1.0);
            with_scratch(10, |b| b.fill(2.0));
            assert_eq!(a, [1.0; 10]);
        });
    }
}
