//! Graphs of a real device: what a stream captured, made executable.
//!
//! Capture is local to the thread: other threads may reserve memory meanwhile, this one may not.
//! Copies from the host are recorded as nodes that read their source at every replay, so the source
//! is page-locked memory of the graph's own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result as driver, sys};

use super::backend::GraphId;
use super::cuda_pinned::Pinned;

type Done<T> = std::result::Result<T, DriverError>;

#[derive(Default)]
pub(super) struct Graphs(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Sources of the copies recorded so far, while a capture is under way.
    recording: Option<Vec<Pinned>>,
    done: HashMap<GraphId, Executable>,
    /// Dropped during a capture, in which nothing may be destroyed.
    dropped: Vec<Executable>,
    next: GraphId,
}

struct Executable {
    handle: sys::CUgraphExec,
    /// Sources of its copies.
    constants: Vec<Pinned>,
}

impl Graphs {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn recording(&self) -> bool {
        self.inner().recording.is_some()
    }

    /// # Safety
    /// The context is current and the stream alive, as for everything here.
    pub unsafe fn begin(&self, stream: sys::CUstream) -> Done<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the caller's.
        unsafe { driver::stream::begin_capture(stream, mode)? };
        self.inner().recording = Some(Vec::new());
        Ok(())
    }

    /// # Safety
    /// As [`Graphs::begin`], on the thread that called it.
    pub unsafe fn end(&self, stream: sys::CUstream, keep: bool) -> Done<Option<GraphId>> {
        let mut inner = self.inner();
        let constants = inner.recording.take().unwrap_or_default();
        // SAFETY: the caller's; the stream captures since `begin`.
        let graph = unsafe { driver::stream::end_capture(stream) };
        // Only now may anything be destroyed.
        for executable in inner.dropped.drain(..) {
            // SAFETY: the caller's; nothing launches it any more.
            unsafe { executable.free(stream) };
        }
        let graph = match graph {
            Ok(graph) if !graph.is_null() => graph,
            // Broken off on purpose: that the driver had given it up before is no news.
            Err(_) if !keep => return Ok(None),
            Ok(_) => return Ok(None),
            Err(error) => return Err(error),
        };
        let handle = keep.then(|| {
            // SAFETY: the graph was just made.
            unsafe { driver::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }
        });
        // SAFETY: made above; the executable form does not need it.
        let _ = unsafe { driver::graph::destroy(graph) };
        let Some(handle) = handle.transpose()? else { return Ok(None) };
        let executable = Executable { handle, constants };
        // Prepares the first launch here.
        // SAFETY: just made, and the stream captures no longer.
        if let Err(error) = unsafe { driver::graph::upload(handle, stream) } {
            // SAFETY: never launched.
            unsafe { executable.free(stream) };
            return Err(error);
        }
        let id = inner.next;
        inner.next += 1;
        inner.done.insert(id, executable);
        Ok(Some(id))
    }

    /// Records a copy of `bytes` to `to`.
    ///
    /// # Safety
    /// As [`Graphs::begin`]; `to` holds as many bytes.
    pub unsafe fn write(&self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Done<()> {
        let mut constant = relaxed(|| Pinned::new(bytes.len()))?;
        constant.bytes().copy_from_slice(bytes);
        // SAFETY: the caller's; the source lives as long as the graph.
        unsafe { driver::memcpy_htod_async(to, constant.bytes(), stream)? };
        self.inner().recording.get_or_insert_default().push(constant);
        Ok(())
    }

    /// Launches a graph; `None` if there is no such graph.
    ///
    /// # Safety
    /// As [`Graphs::begin`]; the memory that the graph touches is reserved.
    pub unsafe fn replay(&self, id: GraphId, stream: sys::CUstream) -> Option<Done<()>> {
        let inner = self.inner();
        let executable = inner.done.get(&id)?;
        // SAFETY: the caller's; it is not destroyed while the lock is held.
        Some(unsafe { driver::graph::launch(executable.handle, stream) })
    }

    /// # Safety
    /// As [`Graphs::begin`].
    pub unsafe fn forget(&self, id: GraphId, stream: sys::CUstream) {
        let mut inner = self.inner();
        let Some(executable) = inner.done.remove(&id) else { return };
        if inner.recording.is_some() {
            inner.dropped.push(executable);
        } else {
            // SAFETY: the caller's.
            unsafe { executable.free(stream) };
        }
    }

    /// Destroys what is left.
    ///
    /// # Safety
    /// As [`Graphs::begin`]; no capture is under way.
    pub unsafe fn close(&mut self, stream: sys::CUstream) {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = inner.done.drain().map(|(_, executable)| executable);
        for executable in left.chain(inner.dropped.drain(..)) {
            // SAFETY: the caller's.
            unsafe { executable.free(stream) };
        }
        inner.recording = None;
    }
}

impl Executable {
    /// # Safety
    /// The context is current, the stream captures nothing.
    unsafe fn free(self, stream: sys::CUstream) {
        // SAFETY: the caller's. A launch under way reads the constants, so it is waited for; errors
        // have no one to go to here, the next call reports them.
        unsafe {
            if !self.constants.is_empty() {
                let _ = driver::stream::synchronize(stream);
            }
            let _ = driver::graph::exec_destroy(self.handle);
        }
    }
}

/// Does something that the driver refuses to a capturing thread, though it queues nothing.
fn relaxed<T>(action: impl FnOnce() -> Done<T>) -> Done<T> {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: exchanges a value of this thread with the one behind the pointer.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result()? };
    let done = action();
    // SAFETY: as above, `mode` is now what was there before.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result()? };
    done
}
