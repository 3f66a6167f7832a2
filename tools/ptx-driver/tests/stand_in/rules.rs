//! Error codes of refused calls, and ends of the process for undefined behaviour.

use std::ptr::{null, null_mut};

use cudarc::driver::sys::{self, CUresult as Is};

use crate::run;

/// Asserts the result of a call.
#[track_caller]
pub fn gives(got: Is, want: Is) {
    assert_eq!(got, want);
}

#[track_caller]
pub fn ok(got: Is) {
    gives(got, Is::CUDA_SUCCESS);
}

/// Returns a context that is current on this thread.
pub fn context() -> sys::CUcontext {
    let mut context = null_mut();
    // SAFETY: as documented; this holds for all files of this test.
    unsafe {
        ok(sys::cuInit(0));
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxSetCurrent(context));
    }
    context
}

pub fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: see `context`.
    unsafe { ok(sys::cuStreamCreate(&mut stream, 1)) };
    stream
}

pub fn memory(bytes: usize) -> u64 {
    let mut address = 0;
    // SAFETY: see `context`.
    unsafe { ok(sys::cuMemAlloc_v2(&mut address, bytes)) };
    address
}

pub fn event(flags: u32) -> sys::CUevent {
    let mut event = null_mut();
    // SAFETY: see `context`.
    unsafe { ok(sys::cuEventCreate(&mut event, flags)) };
    event
}

pub fn pinned(bytes: usize) -> &'static mut [u8] {
    let mut host = null_mut();
    // SAFETY: see `context`; the memory has this length.
    unsafe {
        ok(sys::cuMemHostAlloc(&mut host, bytes, 0));
        std::slice::from_raw_parts_mut(host.cast(), bytes)
    }
}

#[test]
fn misuse_gives_the_documented_codes() {
    let messages = run("rules::child_codes", &[]).well();
    // Every refusal has a message.
    let expected = [
        "cuMemAlloc_v2: CUDA_ERROR_NOT_INITIALIZED: cuInit was not called",
        "cuMemAlloc_v2: CUDA_ERROR_INVALID_CONTEXT: no context is current on this thread",
        "cuStreamSynchronize: CUDA_ERROR_CONTEXT_IS_DESTROYED: the context of this thread was",
    ];
    for sentence in expected {
        assert!(messages.iter().any(|line| line.starts_with(sentence)), "{messages:#?}");
    }
}

pub fn child_codes() {
    let mut address = 0;
    // SAFETY: see `context`.
    unsafe {
        gives(sys::cuMemAlloc_v2(&mut address, 8), Is::CUDA_ERROR_NOT_INITIALIZED);
        gives(sys::cuInit(1), Is::CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuInit(0));
        gives(sys::cuMemAlloc_v2(&mut address, 8), Is::CUDA_ERROR_INVALID_CONTEXT);
        let mut device = 7;
        gives(sys::cuDeviceGet(&mut device, 1), Is::CUDA_ERROR_INVALID_DEVICE);
        context();
        gives(sys::cuMemAlloc_v2(&mut address, 0), Is::CUDA_ERROR_INVALID_VALUE);
        gives(sys::cuMemAlloc_v2(null_mut(), 8), Is::CUDA_ERROR_INVALID_VALUE);
        gives(sys::cuMemAlloc_v2(&mut address, 1 << 40), Is::CUDA_ERROR_OUT_OF_MEMORY);
        let memory = memory(100);
        assert_eq!(memory % 256, 0);
        let (mut host, stream) = ([0u8; 101], stream());
        let to = host.as_mut_ptr().cast();
        let from = host.as_ptr().cast();
        let invalid = Is::CUDA_ERROR_INVALID_VALUE;
        gives(sys::cuMemcpyHtoDAsync_v2(memory, from, 101, stream), invalid);
        gives(sys::cuMemcpyDtoHAsync_v2(to, memory + 1, 100, stream), invalid);
        gives(sys::cuMemcpyDtoDAsync_v2(memory + 1, memory, 50, stream), invalid);
        gives(sys::cuMemsetD8Async(memory + 90, 0, 11, stream), invalid);
        gives(sys::cuMemsetD32Async(memory + 2, 0, 1, stream), invalid);
        gives(sys::cuMemcpyHtoDAsync_v2(memory, null(), 100, stream), invalid);
        gives(sys::cuMemFree_v2(memory + 4), invalid);
        ok(sys::cuMemFree_v2(memory));
        gives(sys::cuMemFree_v2(memory), invalid);
        gives(sys::cuMemcpyHtoDAsync_v2(memory, from, 1, stream), invalid);
        gives(sys::cuMemFreeHost(to), invalid);
        gives(sys::cuStreamDestroy_v2(null_mut()), Is::CUDA_ERROR_INVALID_HANDLE);
        gives(sys::cuEventRecord(null_mut(), stream), Is::CUDA_ERROR_INVALID_HANDLE);
        gives(sys::cuModuleUnload(null_mut()), Is::CUDA_ERROR_INVALID_HANDLE);
        let mut again = null_mut();
        gives(sys::cuStreamCreate(&mut again, 2), invalid);
        ok(sys::cuStreamDestroy_v2(stream));
        ok(sys::cuDevicePrimaryCtxRelease_v2(0));
        gives(sys::cuStreamSynchronize(null_mut()), Is::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        gives(sys::cuDevicePrimaryCtxRelease_v2(0), Is::CUDA_ERROR_INVALID_CONTEXT);
    }
}

#[test]
fn what_is_used_after_its_end_ends_the_process() {
    run("rules::child_destroyed_stream", &[]).undefined("stream number 2 is used after it was");
    run("rules::child_destroyed_event", &[]).undefined("event number 1 is used after it was");
    run("rules::child_wrong_kind", &[]).undefined("is given as a stream, kind: event");
    run("rules::child_no_handle", &[]).undefined("0x12345 is given as a module but is not one");
}

pub fn child_destroyed_stream() {
    context();
    let stream = stream();
    // SAFETY: see `context`.
    unsafe {
        ok(sys::cuStreamDestroy_v2(stream));
        sys::cuStreamSynchronize(stream);
    }
}

pub fn child_destroyed_event() {
    context();
    let event = event(0);
    // SAFETY: see `context`.
    unsafe {
        ok(sys::cuEventDestroy_v2(event));
        sys::cuEventDestroy_v2(event);
    }
}

pub fn child_wrong_kind() {
    context();
    // SAFETY: see `context`.
    unsafe { sys::cuStreamSynchronize(event(0).cast()) };
}

pub fn child_no_handle() {
    context();
    let mut function = null_mut();
    // SAFETY: see `context`.
    unsafe { sys::cuModuleGetFunction(&mut function, 0x12345 as sys::CUmodule, c"f".as_ptr()) };
}

#[test]
fn leaks_are_listed_where_that_is_asked_for() {
    run("rules::child_leaks", &[]).quietly();
    let messages = run("rules::child_leaks", &[("PTX_DRIVER_LEAKS", "1")]).well();
    let [first, second] = &messages[..] else { panic!("{messages:#?}") };
    let released =
        "leak: context number 1 was released with allocations (100 bytes): 1, streams: 1";
    assert!(first.starts_with(released), "{first}");
    assert!(second.starts_with("leak: page-locked allocations never freed"), "{second}");
}

pub fn child_leaks() {
    context();
    memory(100);
    stream();
    pinned(10);
    // SAFETY: see `context`.
    unsafe { ok(sys::cuDevicePrimaryCtxRelease_v2(0)) };
}

#[test]
fn errors_have_names_and_words() {
    run("rules::child_words", &[]).quietly();
}

pub fn child_words() {
    let text = format!("{:?}", cudarc::driver::DriverError(Is::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert!(text.contains("an illegal memory access was encountered"), "{text}");
    let mut name = null();
    // SAFETY: see `context`.
    let code = unsafe { sys::cuGetErrorName(Is::CUDA_ERROR_TOO_MANY_PEERS, &mut name) };
    gives(code, Is::CUDA_ERROR_INVALID_VALUE);
    assert!(name.is_null());
    let mut version = 0;
    // SAFETY: see `context`.
    unsafe { ok(sys::cuDriverGetVersion(&mut version)) };
    assert_eq!(version, 13000);
}
