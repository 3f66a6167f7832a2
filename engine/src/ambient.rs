//! Settings of a thread that change what a call of the engine does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::memory::{Category, Ledger};
use crate::saved::RecomputePolicy;

/// Settings in force on a thread.
#[derive(Clone)]
pub(crate) struct Ambient {
    /// `None` where operations leave nodes in the graph. Elsewhere whether one met a value that
    /// needs a gradient; copies of these settings share it.
    pub unrecorded: Option<Rc<Cell<bool>>>,
    /// Category that buffers are booked under.
    pub category: Category,
    /// Account of the dry run that the thread is in.
    pub ledger: Option<Arc<Ledger>>,
    /// Which values are recomputed.
    pub policy: RecomputePolicy,
    /// Whether results of f32 in host memory are rounded to bf16.
    pub bf16: bool,
}

impl Ambient {
    /// Settings of a thread that nobody has changed.
    pub const DEFAULT: Ambient = Ambient {
        unrecorded: None,
        category: Category::Activations,
        ledger: None,
        policy: RecomputePolicy::None,
        bf16: false,
    };
}

thread_local! {
    static AMBIENT: RefCell<Ambient> = const { RefCell::new(Ambient::DEFAULT) };
}

/// Restores the settings of before, also if the work panics.
struct Restore(Option<Ambient>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            AMBIENT.set(before);
        }
    }
}

/// Runs `f` with settings that `change` makes of those in force.
pub(crate) fn with<R>(change: impl FnOnce(&mut Ambient), f: impl FnOnce() -> R) -> R {
    let mut settings = read(Ambient::clone);
    change(&mut settings);
    let _restore = Restore(Some(AMBIENT.replace(settings)));
    f()
}

/// Reads the settings in force. `f` calls nothing that changes them.
pub(crate) fn read<R>(f: impl FnOnce(&Ambient) -> R) -> R {
    AMBIENT.with_borrow(f)
}

/// Whether operations record. If not, notes that one would have.
pub(crate) fn records() -> bool {
    read(|ambient| {
        let seen = ambient.unrecorded.as_ref();
        seen.inspect(|seen| seen.set(true)).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_end_with_the_work_even_if_it_panics() {
        let seen = Rc::new(Cell::new(false));
        let unrecorded = |ambient: &mut Ambient| ambient.unrecorded = Some(Rc::clone(&seen));
        let inner = || {
            assert!(!records() && read(|ambient| ambient.bf16));
            with(|ambient| *ambient = Ambient::DEFAULT, || assert!(records()));
            panic!("broken off");
        };
        let work = || with(unrecorded, || with(|ambient| ambient.bf16 = true, inner));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err());
        assert!(seen.get(), "noted through other settings");
        assert!(records() && read(|ambient| !ambient.bf16));
    }
}
