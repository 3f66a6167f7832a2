//! Streams and their capture.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::code::{Code, Done, Refused, refuse};
use crate::entry::{call, call_in, exchange_mode, store};
use crate::state::{Capture, Driver, Graph, Handle, Stream};
use crate::work::Work;

/// `cuStreamCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: u32) -> u32 {
    create("cuStreamCreate", stream, flags)
}

/// `cuStreamCreateWithPriority`: priorities have no effect.
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: u32,
    _priority: i32,
) -> u32 {
    create("cuStreamCreateWithPriority", stream, flags)
}

fn create(name: &str, stream: *mut Handle, flags: u32) -> u32 {
    call_in(name, |driver, context| {
        if flags > 1 {
            return refuse(Code::INVALID_VALUE, format!("flags {flags} of a stream"));
        }
        let queue = VecDeque::new();
        let new = Stream { context, non_blocking: flags == 1, queue, capture: None };
        let new = driver.streams.add(new);
        store(stream, new)
    })
}

impl Driver {
    /// Fails for a capturing stream, whose work does not run and so cannot be waited for.
    fn not_capturing(&mut self, stream: Handle) -> Done {
        let Some(capture) = &mut self.streams.get(stream)?.capture else { return Ok(()) };
        capture.invalidated = true;
        let why = "the stream captures; the call is not allowed and ends the capture";
        refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why)
    }
}

/// `cuStreamDestroy_v2`: runs the queued work first.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> u32 {
    call_in("cuStreamDestroy_v2", |driver, context| {
        if stream <= 2 {
            return refuse(Code::INVALID_HANDLE, "the default streams cannot be destroyed");
        }
        let stream = driver.stream(context, stream)?;
        driver.flush(stream)?;
        driver.streams.remove(stream).map(drop)
    })
}

/// `cuStreamSynchronize`
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> u32 {
    call_in("cuStreamSynchronize", |driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.not_capturing(stream)?;
        driver.no_capture()?;
        if stream == driver.contexts.get(context)?.legacy {
            driver.implicit_wait(context)?;
        }
        driver.flush(stream)?;
        driver.healthy(context)
    })
}

/// `cuStreamQuery`: delayed work is reported as not ready once, and is then run.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> u32 {
    call_in("cuStreamQuery", |driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.not_capturing(stream)?;
        driver.no_capture()?;
        if driver.streams.get(stream)?.queue.is_empty() {
            return Ok(());
        }
        driver.flush(stream)?;
        driver.healthy(context)?;
        Err(Refused::plain(Code::NOT_READY))
    })
}

/// `cuStreamWaitEvent`
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> u32 {
    call_in("cuStreamWaitEvent", |driver, context| {
        if flags > 1 {
            return refuse(Code::INVALID_VALUE, format!("flags {flags} of a wait"));
        }
        let stream = driver.stream(context, stream)?;
        let captures = driver.streams.get(stream)?.capture.is_some();
        let found = driver.events.get(event)?;
        let (number, of, captured) = (found.recorded, found.stream, found.captured);
        match (captures, captured) {
            // Within one stream everything is in order already.
            (true, true) if of == stream => Ok(()),
            (true, false) if number == 0 => Ok(()),
            (true, false) => {
                let why = "a captured stream waits for an event of work that is not captured";
                refuse(Code::STREAM_CAPTURE_ISOLATION, why)
            }
            (_, true) => refuse(Code::NOT_SUPPORTED, "captures over several streams"),
            (false, false) if number == 0 => Ok(()),
            (false, false) => driver.enqueue(stream, Work::Wait { event, number }),
        }
    })
}

/// `cuStreamBeginCapture_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> u32 {
    call_in("cuStreamBeginCapture_v2", |driver, context| {
        if mode > 2 {
            return refuse(Code::INVALID_VALUE, format!("capture mode {mode}"));
        }
        let stream = driver.stream(context, stream)?;
        if stream == driver.contexts.get(context)?.legacy {
            let why = "the legacy stream cannot be captured";
            return refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why);
        }
        let capture = &mut driver.streams.get(stream)?.capture;
        if capture.is_some() {
            return refuse(Code::ILLEGAL_STATE, "the stream captures already");
        }
        let thread = std::thread::current().id();
        *capture = Some(Capture { mode, thread, nodes: Vec::new(), invalidated: false });
        Ok(())
    })
}

/// `cuStreamEndCapture`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> u32 {
    call_in("cuStreamEndCapture", |driver, context| {
        store(graph, 0)?;
        let stream = driver.stream(context, stream)?;
        let found = &mut driver.streams.get(stream)?.capture;
        let Some(capture) = found.take() else {
            return refuse(Code::ILLEGAL_STATE, "the stream captures nothing");
        };
        if capture.mode != 2 && capture.thread != std::thread::current().id() {
            *found = Some(capture);
            let why = "the capture was begun by another thread";
            return refuse(Code::STREAM_CAPTURE_WRONG_THREAD, why);
        }
        if capture.invalidated {
            let why = "a call that is not allowed ended the capture before";
            return refuse(Code::STREAM_CAPTURE_INVALIDATED, why);
        }
        let made = driver.graphs.add(Graph { nodes: Arc::new(capture.nodes), context });
        store(graph, made)
    })
}

/// `cuStreamIsCapturing`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> u32 {
    call_in("cuStreamIsCapturing", |driver, context| {
        let stream = driver.stream(context, stream)?;
        let capture = driver.streams.get(stream)?.capture.as_ref();
        store(status, capture.map_or(0, |capture| if capture.invalidated { 2 } else { 1 }))
    })
}

/// `cuThreadExchangeStreamCaptureMode`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> u32 {
    call("cuThreadExchangeStreamCaptureMode", |_| {
        crate::entry::given(mode, "the mode")?;
        // SAFETY: the caller passes a mode.
        let new = unsafe { mode.read_unaligned() };
        if new > 2 {
            return refuse(Code::INVALID_VALUE, format!("capture mode {new}"));
        }
        store(mode, exchange_mode(new))
    })
}
