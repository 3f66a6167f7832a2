//! Read-only pages of memory: those of a file, or a copy of bytes.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapMut};

/// A read-only map.
pub struct Pages {
    map: Mmap,
    /// Whether the system can read dropped pages again.
    of_file: bool,
}

/// Bytes around a page that is read which the system maps along with it, if it has them.
#[cfg(unix)]
const AROUND: usize = 64 << 10;

impl Pages {
    /// Maps a file. One that another process shortens later ends this process with a bus error,
    /// which no check could prevent.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn of_file(file: &File) -> io::Result<Pages> {
        // SAFETY: the map is read-only; what may happen to the file is said above.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Pages { map, of_file: true })
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Pages> {
        let mut map = MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        Ok(Pages { map: map.make_read_only()?, of_file: false })
    }

    /// Lets go of the memory behind part of a file that is not needed for now: it is read again if
    /// it is. Nothing happens to a copy, or where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if self.of_file {
            let start = range.start.saturating_sub(AROUND);
            let end = range.end.saturating_add(AROUND).min(self.map.len());
            let len = end.saturating_sub(start);
            // SAFETY: the map is a file's and never written, so what is dropped can be read again.
            // A failure leaves things as they are.
            let _ =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_let_go_is_there_still() {
        let bytes: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&bytes).expect("written");
        for pages in [Pages::of_file(&file), Pages::of_bytes(&bytes)] {
            let pages = pages.expect("pages");
            for range in [0..300_000, 0..0, 100_000..100_001, 299_999..400_000] {
                pages.release(range);
                assert!(*pages == *bytes);
            }
        }
    }
}
