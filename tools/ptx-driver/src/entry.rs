//! The frame around every exported function.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{Code, Done, Refused, refuse};
use crate::report_line;
use crate::state::{Driver, Handle};

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    /// The context that is current on the thread.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
    /// `CUstreamCaptureMode` of the thread; 0 is global.
    static MODE: Cell<u32> = const { Cell::new(0) };
}

pub(crate) fn current() -> Handle {
    CURRENT.get()
}

pub(crate) fn set_current(context: Handle) {
    CURRENT.set(context);
}

/// Replaces the capture mode of the thread; returns the old one.
pub(crate) fn exchange_mode(mode: u32) -> u32 {
    MODE.replace(mode)
}

fn lock() -> MutexGuard<'static, Option<Driver>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finish(name: &str, done: Done) -> u32 {
    match done {
        Ok(()) => Code::SUCCESS.0,
        Err(Refused { code, why }) => {
            if !why.is_empty() {
                report_line(&format!("{name}: {}: {why}", code.name()));
            }
            code.0
        }
    }
}

/// Runs a function that needs no initialised driver.
pub(crate) fn always(name: &str, body: impl FnOnce(&mut Driver) -> Done) -> u32 {
    finish(name, body(lock().get_or_insert_with(Driver::new)))
}

/// Runs a function that needs an initialised driver and no context.
pub(crate) fn call(name: &str, body: impl FnOnce(&mut Driver) -> Done) -> u32 {
    always(name, |driver| {
        if !driver.initialised {
            return refuse(Code::NOT_INITIALIZED, "cuInit was not called");
        }
        body(driver)
    })
}

/// Runs a function that works in the context that is current on the thread.
pub(crate) fn call_in(name: &str, body: impl FnOnce(&mut Driver, Handle) -> Done) -> u32 {
    call(name, |driver| {
        let context = driver.current()?;
        driver.healthy(context)?;
        body(driver, context)
    })
}

/// Runs a function that a capture forbids: it allocates, frees, or waits outside the captured
/// stream.
pub(crate) fn call_unsafe(name: &str, body: impl FnOnce(&mut Driver, Handle) -> Done) -> u32 {
    call_in(name, |driver, context| {
        driver.no_capture()?;
        body(driver, context)
    })
}

/// Writes a result to a pointer of the caller.
pub(crate) fn store<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return refuse(Code::INVALID_VALUE, "the pointer for the result is null");
    }
    // SAFETY: the caller of the C function passes memory for one value, or null.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Refuses a null pointer.
pub(crate) fn given<T>(pointer: *const T, what: &str) -> Done {
    if pointer.is_null() {
        return refuse(Code::INVALID_VALUE, format!("{what} is a null pointer"));
    }
    Ok(())
}

impl Driver {
    /// Returns the current context of this thread.
    pub fn current(&self) -> Done<Handle> {
        let context = current();
        if context == 0 {
            return refuse(Code::INVALID_CONTEXT, "no context is current on this thread");
        }
        if self.contexts.find(context).is_none() {
            return refuse(Code::CONTEXT_IS_DESTROYED, "the context of this thread was released");
        }
        Ok(context)
    }

    /// Returns the error of an earlier kernel, if one failed.
    pub fn healthy(&mut self, context: Handle) -> Done {
        let device = self.contexts.get(context)?.device;
        match self.devices[device].failed {
            Some(code) => Err(Refused::plain(code)),
            None => Ok(()),
        }
    }

    /// Fails on a thread that a capture restricts (`cuThreadExchangeStreamCaptureMode`), and
    /// invalidates the capture.
    pub fn no_capture(&mut self) -> Done {
        let (mode, thread) = (MODE.get(), std::thread::current().id());
        let mut hit = false;
        for capture in self.streams.values_mut().filter_map(|s| s.capture.as_mut()) {
            let own = capture.thread == thread && capture.mode != 2;
            let other = mode == 0 && capture.thread != thread && capture.mode == 0;
            if mode != 2 && (own || other) {
                capture.invalidated = true;
                hit = true;
            }
        }
        if hit {
            let why = "a capture is under way; the call is not allowed and ends it";
            return refuse(Code::STREAM_CAPTURE_UNSUPPORTED, why);
        }
        Ok(())
    }
}

/// Lists leaks when the library is unloaded, which is when the process ends.
extern "C" fn at_end() {
    // A thread that was stopped inside a call may never release the lock.
    let Ok(guard) = DRIVER.try_lock() else { return };
    let Some(driver) = guard.as_ref().filter(|driver| driver.settings.leaks) else { return };
    for leak in driver.leaks() {
        report_line(&format!("leak: {leak}"));
    }
}

#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".fini_array"))]
static AT_END: extern "C" fn() = at_end;
