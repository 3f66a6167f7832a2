//! Allocations that the system may refuse.
//!
//! A `Vec` ends the process when its memory is refused. Large buffers are allocated here instead: a
//! refusal is returned as an error, or unwinds to a caller that can report it ([`catch`]).
//! Unwinding passes code without errors of its own, such as a kernel's scratch memory. It runs no
//! panic hook, so nothing is printed on the way.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytemuck::Zeroable;

/// A buffer that the system has no memory for, or that a limit of the process forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for a buffer of {bytes} bytes")]
pub struct OutOfMemory {
    /// Bytes requested.
    pub bytes: usize,
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's current allocation may be refused. If so, an allocator that ends the
/// process on a refusal must return null instead.
pub fn refusal_expected() -> bool {
    // A thread that is ending may have lost the variable, and expects nothing.
    EXPECTED.try_with(Cell::get).unwrap_or(false)
}

/// Allocates `len` zero elements.
///
/// # Errors
/// [`OutOfMemory`].
pub fn zeroed<T: Zeroable>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let outer = EXPECTED.replace(true);
    let memory = bytemuck::try_zeroed_vec(len);
    EXPECTED.set(outer);
    memory.map_err(|()| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })
}

/// Allocates as [`zeroed`] does; a refusal unwinds to [`catch`].
pub fn zeroed_or_unwind<T: Zeroable>(len: usize) -> Vec<T> {
    zeroed(len).unwrap_or_else(|refused| unwind(refused))
}

/// Unwinds to [`catch`].
pub fn unwind(refused: OutOfMemory) -> ! {
    resume_unwind(Box::new(refused))
}

/// Calls `f`, also across the threads of a pool, and catches refusals. A refusal may leave values
/// that `f` changes half changed.
///
/// # Errors
/// The refusal that ended `f`. Other panics continue to unwind.
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, OutOfMemory> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload: Box<dyn Any + Send>| {
        match payload.downcast::<OutOfMemory>() {
            Ok(refused) => *refused,
            Err(panic) => resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use rayon::prelude::*;

    use super::*;

    /// More than any address space has.
    const HUGE: usize = 1 << 58;

    #[test]
    fn refusals_are_errors_on_any_thread() {
        assert_eq!(zeroed::<f64>(3), Ok(vec![0.0; 3]));
        assert_eq!(zeroed::<f64>(HUGE), Err(OutOfMemory { bytes: 8 * HUGE }));
        assert_eq!(zeroed::<f64>(usize::MAX), Err(OutOfMemory { bytes: usize::MAX }));
        assert!(!refusal_expected());
        // The compiler may remove a buffer that is never read.
        let len = |n: usize| black_box(zeroed_or_unwind::<u8>(n)).len();
        let refused = catch(|| (0..8).into_par_iter().map(|i| len(i * HUGE)).sum::<usize>());
        assert!(matches!(refused, Err(OutOfMemory { bytes }) if bytes.is_multiple_of(HUGE)));
        assert_eq!(catch(|| len(7)), Ok(7));
    }

    #[test]
    fn a_panic_is_no_refusal() {
        let panic = catch_unwind(|| catch(|| resume_unwind(Box::new("a slip"))));
        let payload = panic.expect_err("goes on").downcast::<&str>().expect("the same payload");
        assert_eq!(*payload, "a slip");
    }
}
