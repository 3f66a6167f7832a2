//! Entries of files, compared with their checksums before their bytes are used.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crc32fast::Hasher;
use dressage_engine::Pages;
use rayon::prelude::*;

use super::shown;
use crate::{ModelError, Result};

/// An entry that tensors lie in; it is read through once, at the first check.
#[derive(Debug)]
pub struct Member {
    /// The file, for errors.
    pub path: Arc<Path>,
    /// Name of the entry.
    pub name: String,
    /// The archive's pages.
    pub pages: Arc<Pages>,
    /// Where the entry lies in them.
    pub range: Range<usize>,
    /// Its checksum in the file's directory.
    pub sum: u32,
    /// Whether it was compared. Two threads may both come first, and find the same.
    pub good: AtomicBool,
    /// What is reported of an entry of this name that differs.
    pub differs: fn(&str) -> String,
}

impl Member {
    /// Compares the entry with its checksum, unless that was done.
    ///
    /// # Errors
    /// [`ModelError::Read`] if they differ.
    pub fn check(&self) -> Result<()> {
        if self.good.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !agrees(&self.pages[self.range.clone()], self.sum) {
            return Err(ModelError::Read {
                path: self.path.to_path_buf(),
                cause: (self.differs)(&self.name),
            });
        }
        self.good.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether bytes have this CRC-32. Zero stands for none: `torch.save` writes it for every entry
/// when told to compute no checksums (`save.compute_crc32` of its configuration), and `torch.load`
/// reads such files, as it never looks. Bytes whose true sum is zero, one of 2^32, go unchecked.
pub fn agrees(bytes: &[u8], sum: u32) -> bool {
    sum == 0 || crc(bytes) == sum
}

/// What is said of an entry that differs from its checksum.
pub fn differs(name: &str) -> String {
    let name = shown(name);
    format!("entry {name} does not have its checksum, so bits of it were changed; download it anew")
}

fn crc(bytes: &[u8]) -> u32 {
    // Pieces for other threads; below that, handing them over costs more than the work.
    const PIECE: usize = 1 << 20;
    let sum = |piece: &[u8]| {
        let mut hasher = Hasher::new();
        hasher.update(piece);
        hasher
    };
    if bytes.len() <= PIECE {
        return sum(bytes).finalize();
    }
    let sums: Vec<Hasher> = bytes.par_chunks(PIECE).map(sum).collect();
    let mut whole = Hasher::new();
    sums.iter().for_each(|part| whole.combine(part));
    whole.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_sum_to_the_whole() {
        // The check value of CRC-32.
        assert_eq!(crc(b"123456789"), 0xCBF4_3926);
        let bytes: Vec<u8> = (0..(5 << 19) + 3).map(|i| (i * 7 % 253) as u8).collect();
        assert_eq!(crc(&bytes), crc32fast::hash(&bytes));
        let mut flipped = bytes.clone();
        flipped[3 << 19] ^= 1;
        assert!(agrees(&bytes, crc(&bytes)) && !agrees(&flipped, crc(&bytes)));
        assert!(agrees(&flipped, 0));
    }
}
