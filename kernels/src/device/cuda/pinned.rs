//! Page-locked host memory for copies to and from a real device.
//!
//! The driver reads page-locked memory by itself while the host goes on. A copy from other memory
//! waits for the driver's staging area. So a write is copied into a ring of page-locked slots and
//! queued from there: the caller's memory is free at once, and nothing is waited for until the ring
//! has wrapped around. Consecutive writes share a slot while it has room. A slot is reused when the
//! event after its last copy has passed. Results are read through one slot.

use std::ffi::c_void;
use std::ptr::NonNull;

use cudarc::driver::{DriverError, result as driver, sys};

type Done<T> = std::result::Result<T, DriverError>;

/// Bytes of a slot: their copy takes long compared with its launch (4 MiB: 80 us at 50 GB/s).
const SLOT: usize = 4 << 20;

/// Slots of the ring: two batches of four images of 512 x 512 in f32.
const SLOTS: usize = 6;

/// Alignment of the start of each copy within a slot.
const ALIGNMENT: usize = 256;

/// An owned piece of page-locked memory.
pub(super) struct Pinned {
    start: NonNull<u8>,
    len: usize,
}

impl Pinned {
    /// Reserves `len` zero bytes; a context has to be current.
    pub fn new(len: usize) -> Done<Pinned> {
        // SAFETY: returns new memory or an error.
        let start = unsafe { driver::malloc_host(len.max(1), 0)? }.cast::<u8>();
        let none = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let start = NonNull::new(start).ok_or(none)?;
        // SAFETY: `len` bytes were just reserved.
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
        // SAFETY: reserved in `new`; its owner drops it only when no copy is under way. `Drop`
        // cannot report an error; the driver cleans up with the process.
        let _ = unsafe { driver::free_host(self.start.as_ptr().cast::<c_void>()) };
    }
}

/// Staging memory for copies to and from a device.
pub(super) struct Staging {
    slots: Vec<Slot>,
    /// The slot being filled, and its bytes filled so far.
    at: usize,
    filled: usize,
    results: Pinned,
}

struct Slot {
    memory: Pinned,
    /// Event after the last copy from the slot.
    passed: sys::CUevent,
}

impl Staging {
    /// Page-locked bytes of a device that has copied.
    pub const BYTES: usize = (SLOTS + 1) * SLOT;

    /// Creates the slots. A context has to be current, as for everything here.
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
                // SAFETY: guaranteed by the caller; all copies from the slot are queued.
                unsafe { self.next(stream)? };
            }
            let len = (bytes.len() - done).min(SLOT - self.filled);
            let start = self.filled;
            let part = &mut self.slots[self.at].memory.bytes()[start..start + len];
            part.copy_from_slice(&bytes[done..done + len]);
            // SAFETY: guaranteed by the caller; the slot is not reused before this copy has passed.
            unsafe { driver::memcpy_htod_async(to + done as u64, part, stream)? };
            self.filled = (start + len).next_multiple_of(ALIGNMENT).min(SLOT);
            done += len;
        }
        Ok(())
    }

    /// Records the event of the slot being filled and moves on to the oldest.
    ///
    /// # Safety
    /// The stream is alive.
    unsafe fn next(&mut self, stream: sys::CUstream) -> Done<()> {
        let next = (self.at + 1) % SLOTS;
        // SAFETY: the events live as long as the ring; one never recorded counts as passed.
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
            // SAFETY: guaranteed by the caller; the slot is read after the copy has passed.
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
            // SAFETY: created in `new`, used by nothing any more.
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
