//! Read-only bytes: a mapped file or a copy of bytes.
//!
//! A file can change while it is open. [`MappedFile::read_at`] copies from the file, so a truncated
//! file gives an error. [`MappedFile::unchanged`] detects writes to the file. A read through the
//! map of a truncated file ends the process with a bus error instead. A program can name the file
//! in that case with [`MappedFile::file_at`].

use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

/// A read-only map.
pub struct MappedFile {
    map: Mmap,
    path: PathBuf,
    /// The open file, and its stamp at the time of opening.
    file: Option<(File, Stamp)>,
    slot: Option<&'static Slot>,
}

/// Length and modification time of a file; they change when somebody writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl MappedFile {
    /// Maps a file; `path` names it in messages.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn of_file(file: File, path: &Path) -> io::Result<MappedFile> {
        let stamp = Stamp::of(&file.metadata()?);
        // SAFETY: the map is read-only; what may happen to the file is described above.
        let map = unsafe { Mmap::map(&file) }?;
        let mut pages =
            MappedFile { map, path: path.to_path_buf(), file: Some((file, stamp)), slot: None };
        pages.slot = Slot::taken(&pages);
        Ok(pages)
    }

    /// Copies `bytes`; `path` names them in messages.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub fn of_bytes(bytes: &[u8], path: &Path) -> io::Result<MappedFile> {
        let mut map = MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        let map = map.make_read_only()?;
        Ok(MappedFile { map, path: path.to_path_buf(), file: None, slot: None })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the bytes from `at` on to `out`.
    ///
    /// # Errors
    /// A file that was truncated since ([`io::ErrorKind::UnexpectedEof`]) or cannot be read.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        #[cfg(unix)]
        if let Some((file, _)) = &self.file {
            return std::os::unix::fs::FileExt::read_exact_at(file, out, at as u64);
        }
        let end = at.checked_add(out.len()).filter(|end| *end <= self.map.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(&self.map[at..end]);
        Ok(())
    }

    /// Whether the file has its old length and nobody has written to it since it was opened.
    ///
    /// # Errors
    /// If the system cannot say.
    pub fn unchanged(&self) -> io::Result<bool> {
        match &self.file {
            Some((file, stamp)) => Ok(Stamp::of(&file.metadata()?) == *stamp),
            None => Ok(true),
        }
    }

    /// Calls `f` with the path of the file that is mapped at `address`, if there is one. It takes
    /// no lock and allocates nothing, so a signal handler can call it on the thread that touched
    /// the address.
    pub fn file_at<R>(address: usize, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        SLOTS.iter().find_map(|slot| slot.name_of(address)).map(f)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.start.store(FREE, Ordering::Release);
        }
    }
}

/// Address range of a map and the path of its file.
struct Slot {
    /// First address, or [`FREE`] or [`RESERVED`].
    start: AtomicUsize,
    end: AtomicUsize,
    name: AtomicPtr<u8>,
    len: AtomicUsize,
}

const FREE: usize = 0;
const RESERVED: usize = 1;

/// Table of all maps; maps beyond its size have no name after a bus error.
static SLOTS: [Slot; 256] = [const { Slot::free() }; 256];

impl Slot {
    const fn free() -> Slot {
        Slot {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(0),
            name: AtomicPtr::new(std::ptr::null_mut()),
            len: AtomicUsize::new(0),
        }
    }

    /// Fills the first free slot for `pages`, whose path must not move from now on.
    fn taken(pages: &MappedFile) -> Option<&'static Slot> {
        let reserve = |slot: &&Slot| {
            let order = Ordering::AcqRel;
            slot.start.compare_exchange(FREE, RESERVED, order, Ordering::Relaxed).is_ok()
        };
        let slot = SLOTS.iter().find(reserve)?;
        let name = pages.path.as_os_str().as_encoded_bytes();
        let start = pages.map.as_ptr() as usize;
        slot.end.store(start + pages.map.len(), Ordering::Relaxed);
        slot.name.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
        slot.len.store(name.len(), Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Some(slot)
    }

    fn name_of(&self, address: usize) -> Option<&[u8]> {
        let start = self.start.load(Ordering::Acquire);
        let end = self.end.load(Ordering::Relaxed);
        if start <= RESERVED || !(start..end).contains(&address) {
            return None;
        }
        let (name, len) = (self.name.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        // SAFETY: the slot is filled, so these are the bytes of a path that its pages own. They are
        // alive, since someone reads from them at `address`.
        Some(unsafe { std::slice::from_raw_parts(name, len) })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of {}", self.map.len(), self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_from_files_and_memory() {
        let bytes: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), &bytes).expect("written");
        let open = || File::open(file.path()).expect("opened");
        for pages in
            [MappedFile::of_file(open(), file.path()), MappedFile::of_bytes(&bytes, file.path())]
        {
            let pages = pages.expect("pages");
            for range in [0..300_000, 7..7, 100_000..100_001, 299_999..300_000] {
                let mut out = vec![0; range.len()];
                pages.read_at(range.start, &mut out).expect("read");
                assert!(out == bytes[range]);
            }
            let beyond = pages.read_at(299_999, &mut [0; 2]).expect_err("beyond the end");
            assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
            assert!(pages.unchanged().expect("known"));
            assert!(*pages == *bytes);
        }
    }

    #[test]
    fn what_happens_to_a_file_is_noticed() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), [1; 100]).expect("written");
        let open = || MappedFile::of_file(File::open(file.path()).expect("opened"), file.path());
        let pages = open().expect("pages");
        let later = SystemTime::now() + std::time::Duration::from_secs(9);
        file.as_file().set_modified(later).expect("touched");
        assert!(!pages.unchanged().expect("known"), "written to");
        let pages = open().expect("pages");
        assert!(pages.unchanged().expect("known"));
        file.as_file().set_len(50).expect("cut");
        assert!(!pages.unchanged().expect("known"), "cut");
        let cut = pages.read_at(40, &mut [0; 20]).expect_err("cut");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn addresses_lead_back_to_their_file() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), [1; 100]).expect("written");
        let pages = MappedFile::of_file(File::open(file.path()).expect("opened"), file.path());
        let pages = pages.expect("pages");
        let at = pages.as_ptr() as usize;
        let name = |address: usize| MappedFile::file_at(address, <[u8]>::to_vec);
        let path = file.path().as_os_str().as_encoded_bytes().to_vec();
        let own = Some(path);
        assert_eq!((&name(at), &name(at + 99)), (&own, &own));
        // Another test may have mapped a file there, but not this one.
        assert_ne!(name(at + 100), own);
        drop(pages);
        assert_ne!(name(at), own);
    }
}
