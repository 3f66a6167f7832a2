//! Memory of the device and page-locked memory of the host.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use crate::code::{Code, Refused, refuse};
use crate::entry::{call_in, call_unsafe, store};
use crate::fatal;
use crate::state::{Allocation, Driver, Handle, rounded};
use crate::work::Work;

/// Alignment of page-locked memory: one page.
const PAGE: usize = 4096;

/// `cuMemAlloc_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    call_unsafe("cuMemAlloc_v2", |driver, context| {
        if bytes == 0 {
            return refuse(Code::INVALID_VALUE, "an allocation of 0 bytes");
        }
        let takes = rounded(bytes as u64);
        if takes > driver.settings.memory.saturating_sub(driver.used) {
            return Err(Refused::plain(Code::OUT_OF_MEMORY));
        }
        let new = driver.gpu.alloc(&format!("cuMemAlloc of {bytes} bytes"), bytes).0;
        driver.memory.insert(new, Allocation { bytes: bytes as u64, context });
        driver.used += takes;
        store(address, new)
    })
}

/// `cuMemFree_v2`: waits for the work of the context, as drivers do without documenting it.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    call_unsafe("cuMemFree_v2", |driver, context| {
        if address == 0 {
            return Ok(());
        }
        if driver.memory.contains_key(&address) {
            driver.synchronize_context(context)?;
            driver.free(address);
            return driver.healthy(context);
        }
        driver.holds(address, 1, "the address")?;
        refuse(Code::INVALID_VALUE, format!("{address:#x} is not the start of an allocation"))
    })
}

/// `cuMemGetInfo_v2`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> u32 {
    call_in("cuMemGetInfo_v2", |driver, _| {
        let all = driver.settings.memory;
        store(free, all.saturating_sub(driver.used) as usize)?;
        store(total, all as usize)
    })
}

/// `cuMemHostAlloc`
///
/// # Safety
/// Same requirements as the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(host: *mut usize, bytes: usize, flags: u32) -> u32 {
    call_unsafe("cuMemHostAlloc", |driver, _| {
        if bytes == 0 || flags > 7 {
            let why = format!("{bytes} bytes of page-locked memory with flags {flags}");
            return refuse(Code::INVALID_VALUE, why);
        }
        let Ok(layout) = Layout::from_size_align(bytes, PAGE) else {
            return Err(Refused::plain(Code::OUT_OF_MEMORY));
        };
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(Refused::plain(Code::OUT_OF_MEMORY));
        }
        // A real driver returns memory with undefined content.
        // SAFETY: this many bytes were just allocated.
        unsafe { start.write_bytes(0xCD, bytes) };
        driver.pinned.insert(start as usize, bytes);
        store(host, start as usize)
    })
}

/// `cuMemFreeHost`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(host: usize) -> u32 {
    call_unsafe("cuMemFreeHost", |driver, _| {
        let Some(&bytes) = driver.pinned.get(&host) else {
            let why = format!("{host:#x} is not the start of page-locked memory");
            return refuse(Code::INVALID_VALUE, why);
        };
        if driver.is_awaited(host, bytes) {
            fatal("page-locked memory is freed while a copy from or to it is queued");
        }
        driver.pinned.remove(&host);
        if let Ok(layout) = Layout::from_size_align(bytes, PAGE) {
            // SAFETY: allocated with this layout in `cuMemHostAlloc`, and freed once.
            unsafe { dealloc(host as *mut u8, layout) };
        }
        Ok(())
    })
}

impl Driver {
    /// Whether a queued copy touches the host's bytes.
    fn is_awaited(&self, host: usize, bytes: usize) -> bool {
        let within = |at: usize| (host..host + bytes).contains(&at);
        let touches = |work: &Work| match *work {
            Work::WritePinned { from, .. } => within(from),
            Work::Read { to, .. } => within(to),
            _ => false,
        };
        self.streams.iter().any(|(_, stream): (Handle, _)| stream.queue.iter().any(touches))
    }
}
