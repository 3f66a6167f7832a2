//! Memory that tasks use beside their arguments: reusable scratch and buffers that several tasks
//! fill.

use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static TASK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static CALL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `len` floats that stay allocated on this thread; their contents are whatever the
/// last user left.
///
/// Inside `f` no work may be handed to rayon: a thread that waits for others takes up another
/// task, and that task would find the scratch in use. It then gets memory of its own, which is
/// right but slow.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    TASK.with(|cell| lend(cell, len, f))
}

/// As [`with_scratch`], for what one call prepares and its parallel tasks read.
pub(crate) fn with_call_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    CALL.with(|cell| lend(cell, len, f))
}

fn lend<R>(cell: &RefCell<Vec<f32>>, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    match cell.try_borrow_mut() {
        Ok(mut scratch) => {
            if scratch.len() < len {
                scratch.resize(len, 0.0);
            }
            f(&mut scratch[..len])
        }
        Err(_) => f(&mut vec![0.0; len]),
    }
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
