//! Graphs of a real device: captured from a stream and instantiated.
//!
//! Capture is local to the thread: other threads may reserve memory meanwhile, this one may not.
//! Copies from the host are recorded as nodes that read their source at every replay, so the source
//! is page-locked memory owned by the graph.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result as driver, sys};

use super::pinned::Pinned;
use crate::device::backend::GraphId;

type Done<T> = std::result::Result<T, DriverError>;

#[derive(Default)]
pub(super) struct CudaGraphs(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Sources of the copies recorded so far; `None` without a capture.
    recording: Option<Vec<Pinned>>,
    done: HashMap<GraphId, Executable>,
    /// Graphs dropped during a capture, in which nothing may be destroyed.
    dropped: Vec<Executable>,
    next: GraphId,
}

struct Executable {
    handle: sys::CUgraphExec,
    /// Sources of its copies.
    constants: Vec<Pinned>,
}

impl CudaGraphs {
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
        // SAFETY: guaranteed by the caller.
        unsafe { driver::stream::begin_capture(stream, mode)? };
        self.inner().recording = Some(Vec::new());
        Ok(())
    }

    /// # Safety
    /// As [`CudaGraphs::begin`], on the thread that called it.
    pub unsafe fn end(&self, stream: sys::CUstream, keep: bool) -> Done<Option<GraphId>> {
        let mut inner = self.inner();
        let constants = inner.recording.take().unwrap_or_default();
        // SAFETY: guaranteed by the caller; the stream captures since `begin`.
        let graph = unsafe { driver::stream::end_capture(stream) };
        // Objects may be destroyed only from here on.
        for executable in inner.dropped.drain(..) {
            // SAFETY: guaranteed by the caller; nothing launches it any more.
            unsafe { executable.free(stream) };
        }
        let graph = match graph {
            Ok(graph) if !graph.is_null() => graph,
            // Ended on purpose: it does not matter that the driver had given up the capture before.
            Err(_) if !keep => return Ok(None),
            Ok(_) => return Ok(None),
            Err(error) => return Err(error),
        };
        let handle = keep.then(|| {
            // SAFETY: the graph was just created.
            unsafe { driver::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }
        });
        // SAFETY: created above; the executable graph does not need it.
        let _ = unsafe { driver::graph::destroy(graph) };
        let Some(handle) = handle.transpose()? else { return Ok(None) };
        let executable = Executable { handle, constants };
        // Prepares the first launch here.
        // SAFETY: just created, and the stream captures no longer.
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
    /// As [`CudaGraphs::begin`]; `to` holds as many bytes.
    pub unsafe fn write(&self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Done<()> {
        let mut constant = relaxed(|| Pinned::new(bytes.len()))?;
        constant.bytes().copy_from_slice(bytes);
        // SAFETY: guaranteed by the caller; the source lives as long as the graph.
        unsafe { driver::memcpy_htod_async(to, constant.bytes(), stream)? };
        self.inner().recording.get_or_insert_default().push(constant);
        Ok(())
    }

    /// Launches a graph; `None` if there is no such graph.
    ///
    /// # Safety
    /// As [`CudaGraphs::begin`]; the memory that the graph touches is reserved.
    pub unsafe fn replay(&self, id: GraphId, stream: sys::CUstream) -> Option<Done<()>> {
        let inner = self.inner();
        let executable = inner.done.get(&id)?;
        // SAFETY: guaranteed by the caller; it is not destroyed while the lock is held.
        Some(unsafe { driver::graph::launch(executable.handle, stream) })
    }

    /// # Safety
    /// As [`CudaGraphs::begin`].
    pub(crate) unsafe fn forget(&self, id: GraphId, stream: sys::CUstream) {
        let mut inner = self.inner();
        let Some(executable) = inner.done.remove(&id) else { return };
        if inner.recording.is_some() {
            inner.dropped.push(executable);
        } else {
            // SAFETY: guaranteed by the caller.
            unsafe { executable.free(stream) };
        }
    }

    /// Destroys all remaining graphs.
    ///
    /// # Safety
    /// As [`CudaGraphs::begin`]; no capture is under way.
    pub unsafe fn close(&mut self, stream: sys::CUstream) {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let left = inner.done.drain().map(|(_, executable)| executable);
        for executable in left.chain(inner.dropped.drain(..)) {
            // SAFETY: guaranteed by the caller.
            unsafe { executable.free(stream) };
        }
        inner.recording = None;
    }
}

impl Executable {
    /// # Safety
    /// The context is current, the stream captures nothing.
    unsafe fn free(self, stream: sys::CUstream) {
        // SAFETY: guaranteed by the caller. A launch under way reads the constants, so it is waited
        // for. Errors cannot be reported here; the next call reports them.
        unsafe {
            if !self.constants.is_empty() {
                let _ = driver::stream::synchronize(stream);
            }
            let _ = driver::graph::exec_destroy(self.handle);
        }
    }
}

/// Runs an action that queues nothing but that the driver refuses to a capturing thread.
fn relaxed<T>(action: impl FnOnce() -> Done<T>) -> Done<T> {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: exchanges a value of this thread with the one behind the pointer.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result()? };
    let done = action();
    // SAFETY: as above; `mode` is now the previous mode.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result()? };
    done
}
