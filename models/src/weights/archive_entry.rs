//! Entries of files. They are compared with their checksums before their bytes are used.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crc32fast::Hasher;
use dressage_engine::MappedFile;
use rayon::prelude::*;

use super::reading::{of_reading, read_at, unchanged};
use super::shown;
use crate::{ModelError, Result};

/// An entry that contains tensors. It is read completely once, at the first check.
#[derive(Debug)]
pub struct ArchiveEntry {
    /// Name of the entry.
    pub name: String,
    /// The mapped archive.
    pub pages: Arc<MappedFile>,
    /// Range of the entry in it.
    pub range: Range<usize>,
    /// Its checksum in the file's directory.
    pub sum: u32,
    /// Whether the comparison was done. Two threads may both do it, with the same result.
    pub good: AtomicBool,
    /// Message for an entry of this name that differs.
    pub differs: fn(&str) -> String,
}

impl ArchiveEntry {
    /// Compares the entry with its checksum, unless this was done before.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] if they differ; a file that was changed or cannot be read.
    pub fn check(&self) -> Result<()> {
        if self.sum == 0 || self.good.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.compare(self.crc().map_err(of_reading)?)
    }

    /// As [`ArchiveEntry::check`], for bytes of the whole entry that are already in memory.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] if they differ.
    pub(crate) fn check_bytes(&self, bytes: &[u8]) -> Result<()> {
        if self.sum == 0 || self.good.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.compare(crc(bytes))
    }

    fn compare(&self, found: u32) -> Result<()> {
        if found != self.sum {
            let path = self.pages.path().to_path_buf();
            return Err(ModelError::Damaged { path, cause: (self.differs)(&self.name) });
        }
        self.good.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The checksum of the entry's bytes in the file.
    fn crc(&self) -> io::Result<u32> {
        let starts: Vec<usize> = self.range.clone().step_by(PIECE).collect();
        let sum = |start: usize| {
            let mut piece = vec![0; (self.range.end - start).min(PIECE)];
            read_at(&self.pages, start, &mut piece)?;
            let mut hasher = Hasher::new();
            hasher.update(&piece);
            Ok(hasher)
        };
        let sums = starts.into_par_iter().map(sum).collect::<io::Result<Vec<Hasher>>>()?;
        unchanged(&self.pages)?;
        Ok(joined(&sums))
    }
}

/// Whether bytes have this CRC-32. Zero means no checksum: `torch.save` writes it for every entry
/// if its configuration turns checksums off (`save.compute_crc32`). `torch.load` reads such files,
/// because it never compares. Bytes whose true checksum is zero, one case of 2^32, are not checked.
pub fn agrees(bytes: &[u8], sum: u32) -> bool {
    sum == 0 || crc(bytes) == sum
}

/// Message for an entry that differs from its checksum.
pub fn differs(name: &str) -> String {
    let name = shown(name);
    format!("entry {name} does not have its checksum, so bits of it were changed")
}

/// Bytes of a piece for one thread; for fewer bytes, starting a thread costs more than the work.
const PIECE: usize = 1 << 20;

fn joined(sums: &[Hasher]) -> u32 {
    let mut whole = Hasher::new();
    sums.iter().for_each(|part| whole.combine(part));
    whole.finalize()
}

fn crc(bytes: &[u8]) -> u32 {
    let sum = |piece: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.update(piece);
        hasher
    };
    if bytes.len() <= PIECE {
        return sum(bytes).finalize();
    }
    let sums: Vec<Hasher> = bytes.par_chunks(PIECE).map(sum).collect();
    joined(&sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_sum_to_the_whole() {
        // The standard check value of CRC-32.
        assert_eq!(crc(b"123456789"), 0xCBF4_3926);
        let bytes: Vec<u8> = (0..(5 << 19) + 3).map(|i| (i * 7 % 253) as u8).collect();
        assert_eq!(crc(&bytes), crc32fast::hash(&bytes));
        let mut flipped = bytes.clone();
        flipped[3 << 19] ^= 1;
        assert!(agrees(&bytes, crc(&bytes)) && !agrees(&flipped, crc(&bytes)));
        assert!(agrees(&flipped, 0));
    }
}
