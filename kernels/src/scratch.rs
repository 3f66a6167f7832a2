//! Memory that tasks use beside their arguments: reusable scratch and buffers that several tasks
//! fill.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::Real;

thread_local! {
    static IDLE: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements whose contents are whatever the last user left.
///
/// The memory stays with the thread for the next call, so that a step after the first allocates
/// none. A nested call, or another task that rayon runs on this thread while one waits, gets
/// memory of its own, which is kept as well.
pub(crate) fn with<T: Real, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut memory = IDLE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = (len * size_of::<T>()).div_ceil(size_of::<f64>());
    if memory.len() < needed {
        memory.resize(needed, 0.0);
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut memory[..needed])[..len]);
    IDLE.with_borrow_mut(|idle| idle.push(memory));
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

/// Cuts the first `len` elements off `rest`.
pub(crate) fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// A buffer of which parallel tasks write disjoint pieces that no `chunks_mut` can describe, such
/// as one head's channels of every row.
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable slice of floats; `piece` makes its callers keep pieces apart.
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
    /// If the piece does not lie within the buffer.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn piece(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "piece outside of the buffer");
        // SAFETY: within the buffer, as just checked; alone on these elements, as the caller
        // promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
