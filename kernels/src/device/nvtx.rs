//! Ranges for NVIDIA's profilers, through libnvToolsExt if it is there; without it, nothing.
//!
//! The library is looked for once, when the first CUDA device is opened: other programs, and runs
//! on the host, never load it. It hands on to whatever profiler the process runs under.

use std::ffi::CString;
use std::sync::OnceLock;

use cudarc::nvtx::sys;

use super::ranges::ProfileScope;

static PRESENT: OnceLock<bool> = OnceLock::new();

/// Looks for the library, and returns whether it is there.
pub(super) fn load() -> bool {
    // SAFETY: tries to load the library, nothing else; loading runs its initialisers only.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Opens a range on this thread; whether anybody can see it, and it has to be closed.
pub(super) fn push(place: &ProfileScope) -> bool {
    if PRESENT.get() != Some(&true) {
        return false;
    }
    let Ok(name) = CString::new(place.to_string()) else { return false };
    // SAFETY: the library is present; it copies the text before it returns.
    unsafe { sys::nvtxRangePushA(name.as_ptr()) };
    true
}

/// Closes what [`push`] opened last on this thread.
pub(super) fn pop() {
    // SAFETY: the library is present, or there would be nothing to close.
    unsafe { sys::nvtxRangePop() };
}
