//! Memory that reading takes: every allocation of the process is counted, those of the engine's
//! pool included.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dressage_engine::memory;
use dressage_models::weights::{OPEN_BASE, OPEN_BYTES, TENSOR_BYTES};
use dressage_tests::samples::Form;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static START: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is passed unchanged to the system's allocator; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new memory may exist at the same time.
        took(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The account belongs to the process, so only one test at a time may use memory.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a measurement. The pool is emptied, so that tensors must be taken from the system.
pub fn begin() {
    memory::trim();
    memory::reset_peak();
    let live = LIVE.load(Ordering::Relaxed);
    START.store(live, Ordering::Relaxed);
    PEAK.store(live, Ordering::Relaxed);
}

/// Peak of live bytes since [`begin`].
pub fn taken() -> usize {
    PEAK.load(Ordering::Relaxed) - START.load(Ordering::Relaxed)
}

/// Limit in bytes for one tensor whose floats are widened from 16 to 32 bits.
pub fn widened(bytes: usize) -> usize {
    2 * TENSOR_BYTES * bytes + FIXED
}

/// Fixed memory of decoding: tables of decoders, buffers of threads.
const FIXED: usize = 256 << 10;

/// Limit in bytes for reading a file, as its reader states.
pub fn allowed(form: Form, bytes: &[u8]) -> usize {
    let n = bytes.len();
    match form {
        Form::Safetensors | Form::Zip | Form::Legacy | Form::TorchScript => {
            OPEN_BYTES * n + OPEN_BASE
        }
        Form::Png | Form::Jpeg => {
            let profile = if bytes.windows(4).any(|w| w == b"iCCP") { 2048 * n } else { 0 };
            16 * pixels(form, bytes) + n + profile + FIXED
        }
    }
}

/// Number of pixels that a picture's header states; 0 if no file of this size could contain them.
fn pixels(form: Form, bytes: &[u8]) -> usize {
    let most = match form {
        Form::Png => 8256 * bytes.len(),
        _ => 1024 * bytes.len(),
    };
    let promised = match form {
        Form::Png => bytes.get(16..24).map(|b| {
            let side = |b: &[u8]| b.iter().fold(0usize, |n, b| (n << 8) | usize::from(*b));
            side(&b[..4]).saturating_mul(side(&b[4..]))
        }),
        // Frames of all types; with several, any may count.
        _ => {
            let frames = bytes.windows(9).filter(|w| {
                w[0] == 0xFF && (0xC0..=0xCF).contains(&w[1]) && ![0xC4, 0xC8, 0xCC].contains(&w[1])
            });
            let side = |a: u8, b: u8| usize::from(a) << 8 | usize::from(b);
            frames.map(|w| side(w[5], w[6]) * side(w[7], w[8])).max()
        }
    };
    let promised = promised.unwrap_or(0);
    // A false size must be noticed before memory is taken for it.
    if promised > most { 0 } else { promised }
}
