//! Copies and fills. Those without a stream run in the legacy stream and are complete when they
//! return.

use std::sync::Arc;

use crate::code::{Code, Done, refuse};
use crate::entry::{call_in, call_unsafe, given};
use crate::state::{Driver, Handle};
use crate::work::Work;

/// A stream, or the legacy stream with a wait afterwards.
#[derive(Clone, Copy)]
enum Where {
    Stream(Handle),
    Waiting,
}

/// The frame of the functions of this file.
fn queue(
    name: &str,
    at: Where,
    bytes: usize,
    work: impl FnOnce(&mut Driver, bool) -> Done<Work>,
) -> u32 {
    let body = |driver: &mut Driver, context: Handle| {
        if bytes == 0 {
            return Ok(());
        }
        match at {
            Where::Stream(stream) => {
                let stream = driver.stream(context, stream)?;
                let captures = driver.streams.get(stream)?.capture.is_some();
                let work = work(driver, captures)?;
                driver.enqueue(stream, work)
            }
            Where::Waiting => {
                let work = work(driver, false)?;
                let legacy = driver.contexts.get(context)?.legacy;
                driver.enqueue(legacy, work)?;
                driver.flush(legacy)?;
                driver.healthy(context)
            }
        }
    };
    match at {
        Where::Stream(_) => call_in(name, body),
        Where::Waiting => call_unsafe(name, body),
    }
}

fn write(name: &str, to: u64, host: *const u8, bytes: usize, at: Where) -> u32 {
    queue(name, at, bytes, |driver, captures| {
        given(host, "the source")?;
        driver.holds(to, bytes as u64, "the destination")?;
        let pinned = driver.is_pinned(host as usize, bytes);
        if captures && !pinned {
            let why = "a captured copy reads its source at every launch of the graph: it has to be \
                       page-locked memory that lives as long";
            return refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why);
        }
        if captures {
            return Ok(Work::WritePinned { to, from: host as usize, bytes, seen: None });
        }
        // SAFETY: the caller passes `bytes` bytes.
        let aside = unsafe { std::slice::from_raw_parts(host, bytes) }.to_vec();
        let aside = Arc::new(aside);
        if pinned {
            return Ok(Work::WritePinned { to, from: host as usize, bytes, seen: Some(aside) });
        }
        // Pageable memory is copied before the call returns.
        Ok(Work::Write { to, bytes: aside })
    })
}

fn read(name: &str, host: *mut u8, from: u64, bytes: usize, at: Where) -> u32 {
    queue(name, at, bytes, |driver, captures| {
        given(host, "the destination")?;
        driver.holds(from, bytes as u64, "the source")?;
        let pinned = driver.is_pinned(host as usize, bytes);
        if captures && !pinned {
            let why = "a captured copy writes its destination at every launch of the graph: it has \
                       to be page-locked memory that lives as long";
            return refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why);
        }
        Ok(Work::Read { from, to: host as usize, bytes, pinned })
    })
}

fn copy(name: &str, to: u64, from: u64, bytes: usize, at: Where) -> u32 {
    queue(name, at, bytes, |driver, _| {
        driver.holds(from, bytes as u64, "the source")?;
        driver.holds(to, bytes as u64, "the destination")?;
        if from.abs_diff(to) < bytes as u64 && from != to {
            return refuse(Code::INVALID_VALUE, "source and destination overlap");
        }
        Ok(Work::Copy { from, to, bytes })
    })
}

fn fill(name: &str, to: u64, pattern: Vec<u8>, count: usize, at: Where) -> u32 {
    let width = pattern.len();
    queue(name, at, count, |driver, _| {
        driver.holds(to, (count * width) as u64, "the destination")?;
        if !to.is_multiple_of(width as u64) {
            let why = format!("{to:#x} is not a multiple of the {width} bytes of a value");
            return refuse(Code::INVALID_VALUE, why);
        }
        Ok(Work::Fill { to, pattern, count })
    })
}

/// `cuMemcpyHtoD_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, host: *const u8, bytes: usize) -> u32 {
    write("cuMemcpyHtoD_v2", to, host, bytes, Where::Waiting)
}

/// `cuMemcpyHtoDAsync_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    host: *const u8,
    bytes: usize,
    stream: Handle,
) -> u32 {
    write("cuMemcpyHtoDAsync_v2", to, host, bytes, Where::Stream(stream))
}

/// `cuMemcpyDtoH_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(host: *mut u8, from: u64, bytes: usize) -> u32 {
    read("cuMemcpyDtoH_v2", host, from, bytes, Where::Waiting)
}

/// `cuMemcpyDtoHAsync_v2`. With `PTX_DRIVER_DELAY` copies to pageable memory are delayed too, since
/// CUDA does not guarantee that they are synchronous.
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    host: *mut u8,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> u32 {
    read("cuMemcpyDtoHAsync_v2", host, from, bytes, Where::Stream(stream))
}

/// `cuMemcpyDtoD_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    copy("cuMemcpyDtoD_v2", to, from, bytes, Where::Waiting)
}

/// `cuMemcpyDtoDAsync_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> u32 {
    copy("cuMemcpyDtoDAsync_v2", to, from, bytes, Where::Stream(stream))
}

/// `cuMemsetD8_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> u32 {
    fill("cuMemsetD8_v2", to, vec![value], count, Where::Waiting)
}

/// `cuMemsetD8Async`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) -> u32 {
    fill("cuMemsetD8Async", to, vec![value], count, Where::Stream(stream))
}

/// `cuMemsetD32Async`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> u32 {
    let pattern = value.to_le_bytes().to_vec();
    fill("cuMemsetD32Async", to, pattern, count, Where::Stream(stream))
}
