//! Events.

use crate::code::{Code, Done, Refused, refuse};
use crate::entry::{call_in, store};
use crate::state::{Driver, Event, Handle};
use crate::work::Work;

const DISABLE_TIMING: u32 = 2;

/// `cuEventCreate`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: u32) -> u32 {
    call_in("cuEventCreate", |driver, context| {
        if flags > 3 {
            return refuse(Code::INVALID_VALUE, format!("flags {flags} of an event"));
        }
        let timing = flags & DISABLE_TIMING == 0;
        let new = driver.events.add(Event { context, timing, ..Event::default() });
        store(event, new)
    })
}

/// `cuEventDestroy_v2`; its record may still be queued.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> u32 {
    call_in("cuEventDestroy_v2", |driver, _| driver.events.remove(event).map(drop))
}

/// `cuEventRecord`
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> u32 {
    call_in("cuEventRecord", |driver, context| {
        let stream = driver.stream(context, stream)?;
        let captures = driver.streams.get(stream)?.capture.is_some();
        let found = driver.events.get(event)?;
        if found.context != context {
            return refuse(Code::INVALID_HANDLE, "event and stream are of different contexts");
        }
        found.stream = stream;
        found.captured = captures;
        if captures {
            return Ok(());
        }
        found.recorded += 1;
        let number = found.recorded;
        driver.enqueue(stream, Work::Record { event, number })
    })
}

impl Driver {
    /// Fails for an event that cannot be queried.
    fn askable(&mut self, event: Handle) -> Done<(u64, bool)> {
        let found = self.events.get(event)?;
        if found.captured {
            let why = "the event was last recorded in a capture";
            return refuse(Code::CAPTURED_EVENT, why);
        }
        let answer = (found.recorded, found.passed == found.recorded);
        self.no_capture()?;
        Ok(answer)
    }
}

/// `cuEventQuery`: delayed work is reported as not ready once, and is then run.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> u32 {
    call_in("cuEventQuery", |driver, context| {
        let (number, passed) = driver.askable(event)?;
        if passed {
            return Ok(());
        }
        driver.pass(event, number)?;
        driver.healthy(context)?;
        Err(Refused::plain(Code::NOT_READY))
    })
}

/// `cuEventSynchronize`
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> u32 {
    call_in("cuEventSynchronize", |driver, context| {
        let (number, _) = driver.askable(event)?;
        driver.pass(event, number)?;
        driver.healthy(context)
    })
}

/// `cuEventElapsedTime`: by the clock of the host.
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, start: Handle, end: Handle) -> u32 {
    elapsed("cuEventElapsedTime", ms, start, end)
}

/// `cuEventElapsedTime_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, start: Handle, end: Handle) -> u32 {
    elapsed("cuEventElapsedTime_v2", ms, start, end)
}

fn elapsed(name: &str, ms: *mut f32, start: Handle, end: Handle) -> u32 {
    call_in(name, |driver, _| {
        let mut times = [None; 2];
        for (event, at) in [start, end].into_iter().zip(&mut times) {
            let found = driver.events.get(event)?;
            if !found.timing {
                let why = "an event without timing (CU_EVENT_DISABLE_TIMING) is asked for its time";
                return refuse(Code::INVALID_HANDLE, why);
            }
            if found.captured || found.recorded == 0 {
                return refuse(Code::INVALID_HANDLE, "an event was never recorded in a stream");
            }
            if found.passed < found.recorded {
                return Err(Refused::plain(Code::NOT_READY));
            }
            *at = found.at;
        }
        let [Some(start), Some(end)] = times else {
            return refuse(Code::INVALID_HANDLE, "an event was never recorded");
        };
        let forward = end.saturating_duration_since(start).as_secs_f64();
        let backward = start.saturating_duration_since(end).as_secs_f64();
        store(ms, ((forward - backward) * 1e3) as f32)
    })
}
