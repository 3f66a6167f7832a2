//! Graceful stop: on request the loop finishes its step, writes a checkpoint and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stop request, shared by its clones. The binary sets it from a signal handler; long work checks
/// it between steps.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Requests a stop. True for the first request, so that a second one can end the program at
    /// once.
    pub fn request(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_request_and_the_first_is_known() {
        let a = Interrupt::default();
        let b = a.clone();
        assert!(!b.requested());
        let first = std::thread::spawn(move || a.request()).join().expect("thread");
        assert!(first && b.requested() && !b.request());
    }
}
