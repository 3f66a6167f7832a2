//! The allocator of the program: out of memory ends it with a message and exit code 1, without
//! abort.
//!
//! Large buffers are allocated by calls that return an error ([`dressage_kernels::cpu::allocate`]); this
//! module handles all other allocations. Nothing on this path allocates memory.

use std::alloc::{GlobalAlloc, Layout, System};

use dressage_kernels::cpu::allocate::refusal_expected;

/// The system's allocator.
pub struct Allocator;

// SAFETY: every call goes to the system allocator; a null pointer ends the process or is passed on.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees what this call requires.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.realloc(memory, layout, size) }, size)
    }
}

#[inline(always)]
fn checked(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() && !refusal_expected() {
        end(bytes);
    }
    memory
}

/// Ends the process with a message.
#[cfg(unix)]
#[cold]
fn end(bytes: usize) {
    use std::sync::atomic::{AtomicBool, Ordering};
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let mut text = Text { bytes: [0; LONGEST], len: 0 };
        text.add(b"error: no more memory: a buffer of ");
        text.add_number(bytes);
        text.add(b" bytes was refused");
        if let Some(limit) = address_space() {
            text.add(b" within a limit of ");
            text.add_number(limit >> 20);
            text.add(b" MiB of address space (ulimit -v)");
        }
        text.add(b"; raise the limit, or make batch, crop or window smaller where the command has them\n");
        // SAFETY: the text is `len` bytes long. A failed write cannot be reported.
        unsafe { libc::write(libc::STDERR_FILENO, text.bytes.as_ptr().cast(), text.len) };
    }
    // SAFETY: ends the process without calling anything that may allocate.
    unsafe { libc::_exit(1) }
}

/// Does nothing on systems without `_exit`: the standard library aborts there.
#[cfg(not(unix))]
fn end(_bytes: usize) {}

/// Returns the limit of address space in bytes, if there is one.
#[cfg(unix)]
fn address_space() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call fills this structure.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// Bytes of the longest sentence.
#[cfg(unix)]
const LONGEST: usize = 320;

/// Text buffer on the stack; text that does not fit is cut off.
#[cfg(unix)]
struct Text {
    bytes: [u8; LONGEST],
    len: usize,
}

#[cfg(unix)]
impl Text {
    fn add(&mut self, more: &[u8]) {
        let room = &mut self.bytes[self.len..];
        let n = more.len().min(room.len());
        room[..n].copy_from_slice(&more[..n]);
        self.len += n;
    }

    fn add_number(&mut self, mut number: usize) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.add(&digits[at..]);
    }
}

/// Limits the allocator to one arena if address space is limited. Each further arena reserves 64
/// MiB for its thread.
pub fn spare_address_space() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if address_space().is_some() {
        // SAFETY: the call changes a setting of the allocator before there are other threads.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn text_is_made_without_memory() {
        let mut text = Text { bytes: [0; LONGEST], len: 0 };
        for number in [0, 7, 1_234_567, usize::MAX] {
            text.add_number(number);
            text.add(b" ");
        }
        assert_eq!(&text.bytes[..text.len], b"0 7 1234567 18446744073709551615 ");
        text.add(&[b'x'; LONGEST]);
        assert_eq!(text.len, LONGEST);
    }
}
