//! Named ranges for profiling the work of a device.
//!
//! A range is a name that applies to its thread while a guard is alive; ranges nest. A range does
//! no work and knows no device. Requests to a device are counted under the current range
//! ([`super::Trace`]). Once a CUDA device is open, ranges are NVTX ranges too, so that Nsight
//! Systems shows `backbone.block 7 / attention` above its kernels.
//!
//! A backward pass has no guards of its own. It enters the range in which the forward pass recorded
//! an operation ([`resume`]), as another [`Phase`] of the same part.

use std::cell::RefCell;
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;
use std::sync::Arc;

use super::nvtx;

/// Pass over a part of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Forward, and everything outside of a pass.
    #[default]
    Forward,
    /// Recomputed forward, for a backward pass that did not find its values saved.
    Recompute,
    /// Backward.
    Backward,
}

impl Display for Phase {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Forward => "forward",
            Phase::Recompute => "recompute",
            Phase::Backward => "backward",
        })
    }
}

/// A phase of a part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileScope {
    /// Names of the ranges from the outermost to the innermost, joined by ` / `; empty outside of
    /// all.
    pub part: Arc<str>,
    /// The phase.
    pub phase: Phase,
}

impl Display for ProfileScope {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.phase {
            Phase::Forward => f.write_str(&self.part),
            phase => write!(f, "{phase}: {}", self.part),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<ProfileScope> =
        RefCell::new(ProfileScope { part: Arc::from(""), phase: Phase::Forward });
}

/// The current scope of this thread.
pub(crate) fn profile_scope() -> ProfileScope {
    CURRENT.with_borrow(Clone::clone)
}

/// Guard that keeps a range open. Guards of a thread close in the reverse order of their opening,
/// as locals do by themselves.
#[must_use = "the range ends when this is dropped"]
#[derive(Debug)]
pub struct Range {
    before: Option<ProfileScope>,
    shown: bool,
    /// Keeps the guard on its thread.
    thread: PhantomData<*const ()>,
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            CURRENT.set(before);
        }
        if self.shown {
            nvtx::pop();
        }
    }
}

fn enter(scope: ProfileScope) -> Range {
    let shown = nvtx::push(&scope);
    Range { before: Some(CURRENT.replace(scope)), shown, thread: PhantomData }
}

/// Opens a range within the current one.
pub fn range(name: impl Display) -> Range {
    let ProfileScope { part, phase } = profile_scope();
    let part = if part.is_empty() { name.to_string() } else { format!("{part} / {name}") };
    enter(ProfileScope { part: part.into(), phase })
}

/// Opens a range in place of the current one: `part` in this phase.
pub fn resume(phase: Phase, part: &Arc<str>) -> Range {
    enter(ProfileScope { part: Arc::clone(part), phase })
}

/// The current part of this thread.
pub fn part() -> Arc<str> {
    CURRENT.with_borrow(|scope| Arc::clone(&scope.part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_nest_and_end() {
        assert_eq!(&*part(), "");
        let outer = range("block 7");
        let inner = range(format_args!("attention {}", 1));
        assert_eq!(profile_scope().to_string(), "block 7 / attention 1");
        let recorded = part();
        drop(inner);
        assert_eq!(&*part(), "block 7");
        drop(outer);
        let other = range("losses");
        let back = resume(Phase::Backward, &recorded);
        assert_eq!(profile_scope().to_string(), "backward: block 7 / attention 1");
        let more = range("more");
        assert_eq!(profile_scope().to_string(), "backward: block 7 / attention 1 / more");
        drop(more);
        drop(back);
        assert_eq!(profile_scope().to_string(), "losses");
        drop(other);
        assert_eq!(&*part(), "");
    }
}
