//! Work that is delayed until the next wait, as on a GPU: events, and memory that changes too
//! early.

use cudarc::driver::sys::{self, CUresult as Is};

use crate::launches::{arguments, launch, sum, value};
use crate::rules::{context, event, gives, memory, ok, pinned, stream};
use crate::run;

const DELAY: [(&str, &str); 1] = [("PTX_DRIVER_DELAY", "1")];

#[test]
fn results_are_there_after_a_wait_and_not_before() {
    run("delay::child_order", &DELAY).quietly();
}

pub fn child_order() {
    context();
    let ((_, function), first, second) = (sum(), stream(), stream());
    let (a, b) = (memory(8), memory(8));
    let host = pinned(16);
    host.fill(0xAA);
    let (passed, untouched) = (event(0), event(2));
    // SAFETY: as documented; this holds for all of this file.
    unsafe {
        ok(launch(function, [1; 3], [1; 3], 0, first, &arguments(5, 6, a)));
        ok(sys::cuEventRecord(passed, first));
        ok(sys::cuStreamWaitEvent(second, passed, 0));
        ok(sys::cuMemcpyDtoDAsync_v2(b, a, 8, second));
        ok(sys::cuMemcpyDtoHAsync_v2(host.as_mut_ptr().cast(), b, 8, second));
        assert_eq!(host[..8], [0xAA; 8]);
        ok(sys::cuEventQuery(untouched));
        // The second stream waits for the first.
        ok(sys::cuStreamSynchronize(second));
        assert_eq!(host[..8], 11u64.to_ne_bytes());
        ok(sys::cuEventQuery(passed));
        // A query reports that work is not done and then runs it, so that a loop of queries ends.
        let end = event(0);
        ok(sys::cuMemsetD8Async(a, 1, 8, first));
        ok(sys::cuEventRecord(end, first));
        let mut ms = -1.0;
        gives(sys::cuEventElapsedTime_v2(&mut ms, passed, end), Is::CUDA_ERROR_NOT_READY);
        gives(sys::cuEventQuery(end), Is::CUDA_ERROR_NOT_READY);
        ok(sys::cuEventQuery(end));
        ok(sys::cuEventElapsedTime_v2(&mut ms, passed, end));
        assert!((0.0..1e5).contains(&ms), "{ms}");
        // Pageable memory is free when the call returns.
        let mut pageable = 1u64.to_ne_bytes();
        ok(sys::cuMemcpyHtoDAsync_v2(a, pageable.as_ptr().cast(), 8, first));
        pageable.fill(9);
        assert_eq!((value(a, first), pageable), (1, [9; 8]));
        // Destroying a stream runs its work first.
        ok(sys::cuMemcpyDtoHAsync_v2(host[8..].as_mut_ptr().cast(), a, 8, first));
        ok(sys::cuStreamDestroy_v2(first));
        assert_eq!(host[8..], 1u64.to_ne_bytes());
    }
}

#[test]
fn page_locked_memory_that_changes_or_goes_too_early_is_found() {
    run("delay::child_changed", &DELAY).undefined("page-locked memory was changed before a copy");
    run("delay::child_freed", &DELAY).undefined("freed while a copy from or to it is queued");
    run("delay::child_unloaded", &DELAY).undefined("unloaded while a kernel of it is queued");
    // Without the delay none of this is found.
    run("delay::child_changed", &[]).quietly();
}

pub fn child_changed() {
    context();
    let (stream, to, host) = (stream(), memory(8), pinned(8));
    // SAFETY: see `child_order`.
    unsafe { ok(sys::cuMemcpyHtoDAsync_v2(to, host.as_ptr().cast(), 8, stream)) };
    host[7] = 1;
    value(to, stream);
}

pub fn child_freed() {
    context();
    let (stream, from, host) = (stream(), memory(8), pinned(8));
    let to = host.as_mut_ptr();
    // SAFETY: see `child_order`.
    unsafe {
        ok(sys::cuMemcpyDtoHAsync_v2(to.cast(), from, 8, stream));
        sys::cuMemFreeHost(to.cast());
    }
}

pub fn child_unloaded() {
    context();
    let ((module, function), stream, to) = (sum(), stream(), memory(8));
    ok(launch(function, [1; 3], [1; 3], 0, stream, &arguments(5, 6, to)));
    // SAFETY: see `child_order`.
    unsafe { sys::cuModuleUnload(module) };
}

#[test]
fn events_measure_only_what_they_recorded() {
    run("delay::child_events", &[]).well();
}

pub fn child_events() {
    context();
    let (stream, start, end, silent) = (stream(), event(0), event(0), event(2));
    let mut ms = -1.0;
    // SAFETY: see `child_order`.
    unsafe {
        let invalid = Is::CUDA_ERROR_INVALID_HANDLE;
        gives(sys::cuEventElapsedTime_v2(&mut ms, start, end), invalid);
        for event in [start, end, silent] {
            ok(sys::cuEventRecord(event, stream));
        }
        gives(sys::cuEventElapsedTime_v2(&mut ms, start, silent), invalid);
        ok(sys::cuEventElapsedTime_v2(&mut ms, start, end));
        assert!((0.0..1e5).contains(&ms), "{ms}");
        ok(sys::cuEventElapsedTime_v2(&mut ms, end, start));
        assert!(ms <= 0.0);
    }
}
