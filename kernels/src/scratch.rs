//! Working memory that stays with its thread, so that a step after the first allocates none.

use std::cell::RefCell;

use crate::Real;

thread_local! {
    static KEPT: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` elements of unspecified contents.
///
/// A nested call on the same thread (rayon may run another task while one waits) gets memory of
/// its own.
pub fn with<T: Real, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut memory = KEPT.take();
    let needed = (len * size_of::<T>()).div_ceil(size_of::<f64>());
    if memory.len() < needed {
        memory.resize(needed, 0.0);
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut memory[..needed])[..len]);
    KEPT.set(memory);
    result
}
