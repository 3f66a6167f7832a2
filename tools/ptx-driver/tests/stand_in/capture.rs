//! Capture of a stream and replay of its graph.

use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult as Is};

use crate::launches::{arguments, launch, sum, value};
use crate::rules::{context, event, gives, memory, ok, pinned, stream};
use crate::run;

const LOCAL: sys::CUstreamCaptureMode =
    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn begin(stream: sys::CUstream, mode: sys::CUstreamCaptureMode) {
    // SAFETY: as documented; this holds for all of this file.
    unsafe { ok(sys::cuStreamBeginCapture_v2(stream, mode)) };
}

fn end(stream: sys::CUstream) -> Result<sys::CUgraph, Is> {
    let mut graph = null_mut();
    // SAFETY: see `begin`.
    let code = unsafe { sys::cuStreamEndCapture(stream, &mut graph) };
    if code == Is::CUDA_SUCCESS { Ok(graph) } else { Err(code) }
}

#[test]
fn a_graph_does_what_was_captured() {
    run("capture::child_replay", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
    run("capture::child_replay", &[("PTX_DRIVER_DELAY", "1")]).quietly();
}

pub fn child_replay() {
    context();
    let ((module, function), stream) = (sum(), stream());
    let (to, copy, other) = (memory(8), memory(8), memory(8));
    let constant = pinned(8);
    constant.copy_from_slice(&3u64.to_ne_bytes());
    // SAFETY: see `begin`.
    unsafe {
        ok(sys::cuMemsetD8Async(to, 0, 8, stream));
        ok(sys::cuMemsetD8Async(copy, 0, 8, stream));
        begin(stream, LOCAL);
        ok(launch(function, [1; 3], [1; 3], 0, stream, &arguments(5, 6, to)));
        ok(sys::cuMemcpyDtoDAsync_v2(copy, to, 8, stream));
        ok(sys::cuMemcpyHtoDAsync_v2(other, constant.as_ptr().cast(), 8, stream));
        let graph = end(stream).unwrap();
        // Nothing ran.
        assert_eq!([value(to, stream), value(copy, stream)], [0, 0]);
        let mut executable = null_mut();
        ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok(sys::cuGraphDestroy(graph));
        ok(sys::cuGraphUpload(executable, stream));
        for round in 3..6u64 {
            constant.copy_from_slice(&round.to_ne_bytes());
            ok(sys::cuGraphLaunch(executable, stream));
            assert_eq!(value(copy, stream), 11);
            // The copy reads its source at each launch.
            assert_eq!(value(other, stream), round);
            ok(sys::cuMemsetD8Async(copy, 0, 8, stream));
        }
        ok(sys::cuStreamSynchronize(stream));
        ok(sys::cuGraphExecDestroy(executable));
        ok(sys::cuMemFreeHost(constant.as_mut_ptr().cast()));
        [to, copy, other].into_iter().for_each(|address| ok(sys::cuMemFree_v2(address)));
        ok(sys::cuModuleUnload(module));
        ok(sys::cuStreamDestroy_v2(stream));
        ok(sys::cuDevicePrimaryCtxRelease_v2(0));
    }
}

#[test]
fn calls_that_a_capture_forbids_are_refused_and_end_it() {
    run("capture::child_forbidden", &[]).well();
}

pub fn child_forbidden() {
    context();
    let (stream, other, first, to) = (stream(), stream(), event(0), memory(8));
    let host = [0u8; 8];
    let unsupported = Is::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let (mut address, mut place) = (0, null_mut());
    // SAFETY: see `begin`.
    unsafe {
        ok(sys::cuEventRecord(first, other));
        let mut calls: Vec<Box<dyn FnMut() -> Is>> = vec![
            Box::new(|| sys::cuMemAlloc_v2(&mut address, 8)),
            Box::new(|| sys::cuMemFree_v2(to)),
            Box::new(|| sys::cuMemHostAlloc(&mut place, 8, 0)),
            Box::new(|| sys::cuMemcpyHtoD_v2(to, host.as_ptr().cast(), 8)),
            Box::new(|| sys::cuStreamSynchronize(stream)),
            Box::new(|| sys::cuStreamSynchronize(other)),
            Box::new(|| sys::cuEventQuery(first)),
            Box::new(|| sys::cuCtxSynchronize()),
        ];
        for call in &mut calls {
            begin(stream, LOCAL);
            gives(call(), unsupported);
            // Later work is refused as well, and there is no graph.
            let invalidated = Is::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            gives(sys::cuMemsetD8Async(to, 0, 8, stream), invalidated);
            assert_eq!(end(stream), Err(invalidated));
        }
        drop(calls);
        // Pageable memory would be read at each launch.
        begin(stream, LOCAL);
        gives(sys::cuMemcpyHtoDAsync_v2(to, host.as_ptr().cast(), 8, stream), unsupported);
        end(stream).unwrap();
    }
}

#[test]
fn threads_and_events_of_a_capture_keep_their_rules() {
    run("capture::child_threads", &[]).well();
}

pub fn child_threads() {
    context();
    let (stream, other, first) = (stream(), stream(), event(0));
    let unsupported = Is::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    // SAFETY: see `begin`.
    unsafe {
        // The other thread is not restricted by a capture of this one, nor is a relaxed thread.
        begin(stream, LOCAL);
        let (context, shared) = (context() as usize, stream as usize);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ok(sys::cuCtxSetCurrent(context as sys::CUcontext));
                ok(sys::cuMemFree_v2(memory(8)));
                let wrong = Is::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
                let mut graph = null_mut();
                gives(sys::cuStreamEndCapture(shared as sys::CUstream, &mut graph), wrong);
            });
        });
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
        ok(sys::cuMemFree_v2(memory(8)));
        ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
        ok(sys::cuGraphDestroy(end(stream).unwrap()));
        assert_eq!(end(stream), Err(Is::CUDA_ERROR_ILLEGAL_STATE));
        gives(sys::cuStreamBeginCapture_v2(null_mut(), LOCAL), unsupported);
        // Events.
        begin(stream, LOCAL);
        ok(sys::cuEventRecord(first, stream));
        gives(sys::cuEventQuery(first), Is::CUDA_ERROR_CAPTURED_EVENT);
        let second = event(0);
        ok(sys::cuEventRecord(second, other));
        gives(sys::cuStreamWaitEvent(stream, second, 0), Is::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        end(stream).unwrap();
    }
}

#[test]
fn what_a_graph_needs_has_to_live() {
    run("capture::child_unloaded", &[]).undefined("after a module of its kernels was unloaded");
    run("capture::child_freed_source", &[]).undefined("page-locked memory was freed before");
    let messages = run("capture::child_freed_memory", &[]).well();
    assert!(
        messages[0].contains("CUDA_ERROR_ILLEGAL_ADDRESS: out of bounds: sum"),
        "{messages:#?}"
    );
}

/// A graph of one launch, or of one copy.
fn graph(stream: sys::CUstream, queue: impl FnOnce()) -> sys::CUgraphExec {
    let mut executable = null_mut();
    begin(stream, LOCAL);
    queue();
    // SAFETY: see `begin`.
    unsafe {
        ok(sys::cuGraphInstantiateWithFlags(&mut executable, end(stream).unwrap(), 0));
    }
    executable
}

pub fn child_unloaded() {
    context();
    let ((module, function), stream, to) = (sum(), stream(), memory(8));
    let launched = || ok(launch(function, [1; 3], [1; 3], 0, stream, &arguments(5, 6, to)));
    let executable = graph(stream, launched);
    // SAFETY: see `begin`.
    unsafe {
        ok(sys::cuModuleUnload(module));
        sys::cuGraphLaunch(executable, stream);
    }
}

pub fn child_freed_source() {
    context();
    let (stream, to, host) = (stream(), memory(8), pinned(8));
    let from = host.as_mut_ptr();
    // SAFETY: see `begin`.
    unsafe {
        let copied = || ok(sys::cuMemcpyHtoDAsync_v2(to, from.cast(), 8, stream));
        let executable = graph(stream, copied);
        ok(sys::cuMemFreeHost(from.cast()));
        sys::cuGraphLaunch(executable, stream);
    }
}

pub fn child_freed_memory() {
    context();
    let ((_, function), stream, to) = (sum(), stream(), memory(8));
    let launched = || ok(launch(function, [1; 3], [1; 3], 0, stream, &arguments(5, 6, to)));
    let executable = graph(stream, launched);
    // SAFETY: see `begin`.
    unsafe {
        ok(sys::cuMemFree_v2(to));
        ok(sys::cuGraphLaunch(executable, stream));
        gives(sys::cuStreamSynchronize(stream), Is::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}
