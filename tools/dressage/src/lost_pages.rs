//! The sentence for a file that is cut short while it is mapped.
//!
//! The system answers a read behind the new end with SIGBUS, which would end the program without a
//! word. Weights are copied with calls that fail in order; what is left are the directories of
//! files while they are opened, and weights that are used in their file for lack of memory.

/// Has a bus error in a mapped file of weights end the program with a sentence. Others, and all
/// systems without such signals, stay as they are.
pub fn explain() {
    #[cfg(unix)]
    unix::install();
}

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use dressage_engine::Pages;

    /// What answered the signal before.
    static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

    pub fn install() {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = answer;
        let mut before = Box::new(MaybeUninit::<libc::sigaction>::zeroed());
        // SAFETY: both structures are whole; the handler calls what signal handlers may call only.
        let installed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, before.as_mut_ptr())
        };
        if installed == 0 {
            BEFORE.store(Box::into_raw(before).cast(), Ordering::Release);
        }
    }

    extern "C" fn answer(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the system passes a structure that is valid during the call.
        let address = unsafe { (*info).si_addr() } as usize;
        let told = Pages::file_at(address, |name| {
            write(b"error: ");
            write(name);
            write(b": was cut short, or its disk failed, while it was in use; start again with a whole file\n");
        });
        if told.is_some() {
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(1) };
        }
        let before = BEFORE.load(Ordering::Acquire);
        // SAFETY: the structure is the one that the system filled in, or null for the default. The
        // instruction is tried again after the return, with the earlier answer.
        unsafe {
            if before.is_null() {
                libc::signal(signal, libc::SIG_DFL);
            } else {
                libc::sigaction(signal, before, ptr::null_mut());
            }
        }
    }

    /// Writes to standard error; there is nobody to tell if that fails.
    fn write(bytes: &[u8]) {
        // SAFETY: the bytes are there, and the call takes no lock.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }
}
