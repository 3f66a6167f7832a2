//! Ranges for NVIDIA's profilers through libnvToolsExt; without the library they do nothing.
//!
//! The library is looked for once, when the first CUDA device is opened: other programs, and runs
//! on the host, never load it. It forwards ranges to the profiler under which the process runs.

use std::ffi::CString;
use std::sync::OnceLock;

use cudarc::nvtx::sys;

use super::ranges::ProfileScope;

static PRESENT: OnceLock<bool> = OnceLock::new();

/// Looks for the library, and returns whether it is there.
pub(super) fn load() -> bool {
    // SAFETY: only tries to load the library; loading runs its initialisers only.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Opens a range on this thread. Returns true if the library has it, so that it must be closed.
pub(super) fn push(scope: &ProfileScope) -> bool {
    if PRESENT.get() != Some(&true) {
        return false;
    }
    let Ok(name) = CString::new(scope.to_string()) else { return false };
    // SAFETY: the library is present; it copies the text before it returns.
    unsafe { sys::nvtxRangePushA(name.as_ptr()) };
    true
}

/// Closes the latest range that [`push`] opened on this thread.
pub(super) fn pop() {
    // SAFETY: the library is present, or there would be no range to close.
    unsafe { sys::nvtxRangePop() };
}
