//! The error message for a file that is truncated while it is mapped.
//!
//! Reading past the new end raises SIGBUS, which would end the program without a message. Weights
//! are copied with calls that return errors. SIGBUS remains possible while the directory of a file
//! is read, and for weights that are used in their file for lack of memory.

/// Makes a bus error in a mapped weights file end the program with a message. Other bus errors, and
/// systems without this signal, keep their behaviour.
pub fn explain() {
    #[cfg(unix)]
    unix::install();
}

/// Like [`explain`], in the child process of a test whose standard error becomes `words`.
#[cfg(all(test, unix))]
fn explain_to(words: std::os::fd::RawFd) {
    // SAFETY: both file descriptors are open.
    unsafe { libc::dup2(words, libc::STDERR_FILENO) };
    unix::install();
}

#[cfg(unix)]
mod unix {
    use std::ptr;
    use std::sync::OnceLock;

    use dressage_engine::MappedFile;

    /// Previous handler of the signal.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    pub fn install() {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = answer;
        // SAFETY: all zeros is a valid `sigaction`, and the system fills in the other one. The
        // handler only calls functions that are async-signal-safe.
        let (installed, before) = unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            (libc::sigaction(libc::SIGBUS, &action, &mut before), before)
        };
        if installed == 0 {
            // It is installed once.
            let _ = BEFORE.set(before);
        }
    }

    extern "C" fn answer(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the system passes a structure that is valid during the call.
        let address = unsafe { (*info).si_addr() } as usize;
        let reported = MappedFile::file_at(address, |name| {
            write(b"error: ");
            write(name);
            write(b": was cut short, or its disk failed, while it was in use; start again with a whole file\n");
        });
        if reported.is_some() {
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(1) };
        }
        // SAFETY: the structure is the one that the system filled in. After the return the
        // instruction runs once more, with the previous handler.
        unsafe {
            match BEFORE.get() {
                Some(before) => libc::sigaction(signal, before, ptr::null_mut()),
                None => libc::signal(signal, libc::SIG_DFL) as libc::c_int,
            };
        }
    }

    /// Writes to standard error; a failure cannot be reported.
    fn write(bytes: &[u8]) {
        // SAFETY: the bytes are there, and the call takes no lock.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;

    use dressage_engine::MappedFile;

    #[test]
    fn a_file_that_was_cut_ends_the_program_with_its_name() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("cut.safetensors");
        fs::write(&path, vec![1; 1 << 20]).expect("written");
        let pages = MappedFile::of_file(File::open(&path).expect("opened"), &path).expect("mapped");
        let words = File::create(dir.path().join("words")).expect("file");
        File::create(&path).expect("cut to nothing");
        // SAFETY: the child calls nothing that could need a lock of another thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            super::explain_to(words.as_raw_fd());
            // SAFETY: the address is mapped. The file behind it is truncated, which is what this
            // test needs.
            let byte = unsafe { std::ptr::read_volatile(pages.as_ptr().add(1 << 19)) };
            // SAFETY: it ends the child at once.
            unsafe { libc::_exit(100 + i32::from(byte)) };
        }
        let mut status = 0;
        // SAFETY: the child is this process's own.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFEXITED(status), "it ended by a signal: {status:#x}");
        assert_eq!(libc::WEXITSTATUS(status), 1);
        let words = fs::read_to_string(dir.path().join("words")).expect("words");
        assert!(words.starts_with("error: ") && words.ends_with("whole file\n"), "{words}");
        assert!(words.contains("cut.safetensors: was cut short"), "{words}");
    }

    /// Other bus errors are left to the previous handler.
    #[test]
    fn other_addresses_are_nobodys() {
        assert!(MappedFile::file_at(8, |_| ()).is_none());
    }
}
