//! Times by the device's own clock, between two events of a stream.

use cudarc::driver::{DriverError, result::event, sys};

use crate::{KernelError, Result};

/// An event that records the time at which the stream reaches it.
struct Event(sys::CUevent);

impl Event {
    fn new() -> std::result::Result<Event, DriverError> {
        event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Event)
    }

    /// Records the event at the end of the stream.
    ///
    /// # Safety
    /// The stream is alive, in the context that was current when the event was created.
    unsafe fn record(&self, stream: sys::CUstream) -> std::result::Result<(), DriverError> {
        // SAFETY: the event is not null; the caller guarantees the stream.
        unsafe { event::record(self.0, stream) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // `Drop` cannot report an error; the driver cleans up with the context. An event that the
        // stream has not reached yet may be destroyed.
        // SAFETY: created once, destroyed once.
        let _ = unsafe { event::destroy(self.0) };
    }
}

type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

/// Milliseconds between two events. The bindings know only the second version of the call, which
/// drivers before 570 lack, and panic there. Every driver has the first version.
///
/// # Safety
/// Both events were recorded on one stream that has reached them.
unsafe fn elapsed(start: &Event, end: &Event) -> Option<std::result::Result<f32, DriverError>> {
    let mut ms = 0.0;
    // SAFETY: the library is loaded, or there would be no events; the type is the documented one of
    // both versions; the caller guarantees the events.
    unsafe {
        let library = sys::culib();
        let call = library
            .get::<Elapsed>(b"cuEventElapsedTime\0")
            .or_else(|_| library.get::<Elapsed>(b"cuEventElapsedTime_v2\0"))
            .ok()?;
        Some(call(&mut ms, start.0, end.0).result().map(|()| ms))
    }
}

/// Seconds from the beginning to the end of the work that `work` queues on the stream.
///
/// # Safety
/// The stream is alive, in the context that is current.
pub(super) unsafe fn time(
    stream: sys::CUstream,
    work: &mut dyn FnMut() -> Result<()>,
    failed: &dyn Fn(DriverError) -> KernelError,
) -> Result<f64> {
    let start = Event::new().map_err(failed)?;
    let end = Event::new().map_err(failed)?;
    // SAFETY: the caller guarantees the stream.
    unsafe { start.record(stream) }.map_err(failed)?;
    work()?;
    // SAFETY: as above; the end is waited for, and the start comes before it.
    let ms = unsafe {
        end.record(stream).map_err(failed)?;
        event::synchronize(end.0).map_err(failed)?;
        elapsed(&start, &end)
    };
    match ms {
        Some(ms) => Ok(f64::from(ms.map_err(failed)?) * 1e-3),
        None => {
            let what = "the driver has no call cuEventElapsedTime".into();
            Err(KernelError::Device { device: "CUDA".into(), action: "time its work", what })
        }
    }
}
