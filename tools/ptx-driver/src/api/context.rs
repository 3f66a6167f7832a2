//! Primary contexts and the context of a thread.

use std::collections::VecDeque;

use super::device::known;
use crate::code::{Code, refuse};
use crate::entry::{call, call_unsafe, current, set_current, store};
use crate::state::{Context, Handle, Stream};

/// `cuDevicePrimaryCtxRetain`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: i32) -> u32 {
    call("cuDevicePrimaryCtxRetain", |driver| {
        let number = known(driver, device)?;
        let primary = match driver.devices[number].primary {
            Some(primary) => primary,
            None => {
                let new = driver.contexts.add(Context { device: number, legacy: 0 });
                let queue = VecDeque::new();
                let legacy = Stream { context: new, non_blocking: false, queue, capture: None };
                driver.contexts.get(new)?.legacy = driver.streams.add(legacy);
                driver.devices[number].primary = Some(new);
                new
            }
        };
        store(context, primary)?;
        driver.devices[number].retained += 1;
        Ok(())
    })
}

/// `cuDevicePrimaryCtxRelease_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> u32 {
    call("cuDevicePrimaryCtxRelease_v2", |driver| {
        let number = known(driver, device)?;
        let Some(primary) = driver.devices[number].primary else {
            return refuse(Code::INVALID_CONTEXT, "the primary context is not retained");
        };
        driver.devices[number].retained -= 1;
        if driver.devices[number].retained == 0 { driver.destroy(primary) } else { Ok(()) }
    })
}

/// `cuCtxSetCurrent`
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> u32 {
    call("cuCtxSetCurrent", |driver| {
        if context != 0 {
            driver.contexts.get(context)?;
        }
        set_current(context);
        Ok(())
    })
}

/// `cuCtxGetCurrent`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> u32 {
    call("cuCtxGetCurrent", |_| store(context, current()))
}

/// `cuCtxGetDevice`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut i32) -> u32 {
    call("cuCtxGetDevice", |driver| {
        let context = driver.current()?;
        let found = driver.contexts.get(context)?.device;
        store(device, found as i32)
    })
}

/// `cuCtxSynchronize`
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    call_unsafe("cuCtxSynchronize", |driver, context| {
        driver.synchronize_context(context)?;
        driver.healthy(context)
    })
}
