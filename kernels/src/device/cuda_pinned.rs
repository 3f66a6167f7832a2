//! Page-locked host memory that copies to and from a real device go through.
//!
//! The driver reads page-locked memory by itself while the host goes on; from other memory a copy
//! waits for a staging area of the driver's. So a write is copied into a ring of page-locked slots
//! and queued from there: the caller's memory is free at once and nothing is waited for until the
//! ring has gone round. Writes that follow each other share a slot while it has room; a slot is
//! used again when the event behind its last copy has passed. Results are read through one slot.

use std::ffi::c_void;
use std::ptr::NonNull;

use cudarc::driver::{DriverError, result as driver, sys};

type Done<T> = std::result::Result<T, DriverError>;

/// Bytes of a slot: a copy of this size is long beside its launch (4 MiB: 80 us at 50 GB/s).
const SLOT: usize = 4 << 20;

/// Slots of the ring: two batches of four images of 512 x 512 in f32.
const SLOTS: usize = 6;

/// Addresses on the device that a copy starts at stay multiples of this within a slot.
const ALIGNMENT: usize = 256;

/// Page-locked bytes of their own.
pub(super) struct Pinned {
    start: NonNull<u8>,
    len: usize,
}

impl Pinned {
    /// `len` zeros; a context has to be current.
    pub fn new(len: usize) -> Done<Pinned> {
        // SAFETY: returns new memory or an error.
        let start = unsafe { driver::malloc_host(len.max(1), 0)? }.cast::<u8>();
        let none = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let start = NonNull::new(start).ok_or(none)?;
        // SAFETY: as many bytes were just reserved.
        unsafe { start.write_bytes(0, len) };
        Ok(Pinned { start, len })
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes that were written in `new`, borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: reserved in `new`; whoever drops it knows that no copy is under way. An error has
        // no one to go to; the driver cleans up with the process.
        let _ = unsafe { driver::free_host(self.start.as_ptr().cast::<c_void>()) };
    }
}

/// What copies to and from a device go through.
pub(super) struct Staging {
    slots: Vec<Slot>,
    /// The slot being filled, and how far.
    at: usize,
    filled: usize,
    results: Pinned,
}

struct Slot {
    memory: Pinned,
    /// Behind the last copy from it.
    passed: sys::CUevent,
}

impl Staging {
    /// Page-locked bytes of a device that has copied.
    pub const BYTES: usize = (SLOTS + 1) * SLOT;

    /// A context has to be current, as for everything here.
    pub fn new() -> Done<Staging> {
        let results = Pinned::new(SLOT)?;
        let mut staging = Staging { slots: Vec::with_capacity(SLOTS), at: 0, filled: 0, results };
        for _ in 0..SLOTS {
            match Slot::new() {
                Ok(slot) => staging.slots.push(slot),
                Err(error) => {
                    staging.close();
                    return Err(error);
                }
            }
        }
        Ok(staging)
    }

    /// Queues a copy of `bytes` to `to`.
    ///
    /// # Safety
    /// The stream is alive, `to` holds as many bytes.
    pub unsafe fn write(&mut self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Done<()> {
        let mut done = 0;
        while done < bytes.len() {
            if self.filled == SLOT {
                // SAFETY: the caller's; all copies from the slot are queued.
                unsafe { self.next(stream)? };
            }
            let len = (bytes.len() - done).min(SLOT - self.filled);
            let start = self.filled;
            let part = &mut self.slots[self.at].memory.bytes()[start..start + len];
            part.copy_from_slice(&bytes[done..done + len]);
            // SAFETY: the caller's; the slot is not written again before this copy has passed.
            unsafe { driver::memcpy_htod_async(to + done as u64, part, stream)? };
            self.filled = (start + len).next_multiple_of(ALIGNMENT).min(SLOT);
            done += len;
        }
        Ok(())
    }

    /// Marks the end of the slot being filled and goes on to the oldest.
    ///
    /// # Safety
    /// The stream is alive.
    unsafe fn next(&mut self, stream: sys::CUstream) -> Done<()> {
        let next = (self.at + 1) % SLOTS;
        // SAFETY: the events live as long as the ring; one that was never recorded has passed.
        unsafe {
            driver::event::record(self.slots[self.at].passed, stream)?;
            driver::event::synchronize(self.slots[next].passed)?;
        }
        (self.at, self.filled) = (next, 0);
        Ok(())
    }

    /// Waits for everything queued and copies to `bytes`.
    ///
    /// # Safety
    /// The stream is alive, `from` holds as many bytes.
    pub unsafe fn read(&mut self, from: u64, bytes: &mut [u8], stream: sys::CUstream) -> Done<()> {
        for (i, part) in bytes.chunks_mut(SLOT).enumerate() {
            let through = &mut self.results.bytes()[..part.len()];
            // SAFETY: the caller's; the slot is read after the copy has passed.
            unsafe {
                driver::memcpy_dtoh_async(through, from + (i * SLOT) as u64, stream)?;
                driver::stream::synchronize(stream)?;
            }
            part.copy_from_slice(through);
        }
        Ok(())
    }

    /// Destroys the events; no copy is under way.
    pub fn close(&mut self) {
        for slot in self.slots.drain(..) {
            // SAFETY: made in `new`, used by nothing any more.
            let _ = unsafe { driver::event::destroy(slot.passed) };
        }
    }
}

impl Slot {
    fn new() -> Done<Slot> {
        let memory = Pinned::new(SLOT)?;
        let passed = driver::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Slot { memory, passed })
    }
}
