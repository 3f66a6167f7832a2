//! Checksums of the safetensors files that this crate writes.
//!
//! The metadata of such a file has two entries: the CRC-32 of the header, and that of each tensor
//! in file order. The header's checksum is over its length and its whole text, with zeros for the
//! checksum's own digits. So it covers names, types, shapes, metadata and the tensors' checksums. A
//! header that mentions one of the two entries must have both. So a file with one damaged entry
//! does not pass as a file without checksums.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crc32fast::Hasher;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::container::{Fault, FileResult};
use super::safetensors::Written;
use super::shown;

/// Entry with the checksum of the header.
const HEADER: &str = "header_crc32";

/// Entry with the checksums of the tensors.
const TENSORS: &str = "tensor_crc32";

/// Hexadecimal digits of a checksum.
const DIGITS: usize = 8;

/// Text before the header's checksum. The notes are JSON inside a string of the header's JSON.
const BEFORE: &str = "header_crc32\\\":\\\"";

/// Adds the checksums of `tensors`, in the order of writing, to the notes of a file. [`seal`] fills
/// in that of the header.
///
/// # Errors
/// A value beyond the largest of the type in which it is written.
pub fn add(notes: &mut Map<String, Value>, tensors: &[Written<'_>]) -> io::Result<()> {
    let sum = |(_, stored, kind): &Written<'_>| {
        let mut sum = Sum(Hasher::new());
        stored.write(*kind, &mut sum)?;
        Ok(digits(sum.0.finalize()))
    };
    let sums = tensors.par_iter().map(sum).collect::<io::Result<Vec<String>>>()?;
    notes.insert(HEADER.into(), digits(0).into());
    notes.insert(TENSORS.into(), sums.concat().into());
    Ok(())
}

/// Fills in the checksum of a header, which begins with its length.
pub(crate) fn seal(header: &mut [u8]) {
    if let Some(at) = find(header, BEFORE) {
        let sum = digits(crc32fast::hash(header));
        header[at + BEFORE.len()..][..DIGITS].copy_from_slice(sum.as_bytes());
    }
}

/// Compares a header, which begins with its length, with its checksum. Removes both entries from
/// `notes` and returns the checksums of the `n` tensors; `None` for a file without them.
pub fn check(
    header: &[u8],
    notes: &mut BTreeMap<String, String>,
    n: usize,
) -> FileResult<Option<Vec<u32>>> {
    let (own, sums) = (notes.remove(HEADER), notes.remove(TENSORS));
    if find(header, HEADER).is_none() && find(header, TENSORS).is_none() {
        return Ok(None);
    }
    let sums = sums.and_then(|text| numbers(&text)).filter(|sums| sums.len() == n);
    let at = find(header, BEFORE).map(|at| at + BEFORE.len());
    let (Some(sums), Some(at), Some(own)) = (sums, at, own) else {
        return Err(Fault::damaged(differs("its header")));
    };
    let mut blank = header.to_vec();
    if let Some(digits) = blank.get_mut(at..at + DIGITS) {
        digits.fill(b'0');
    }
    // Compared as text, because digits of another case are damage too.
    match digits(crc32fast::hash(&blank)) == own {
        true => Ok(Some(sums)),
        false => Err(Fault::damaged(differs("its header"))),
    }
}

/// Message for a tensor that differs from its checksum.
pub(crate) fn differs_in(tensor: &str) -> String {
    differs(&format!("tensor {}", shown(tensor)))
}

fn differs(what: &str) -> String {
    format!("{what} does not have the checksum it was written with, so the file is damaged")
}

fn digits(sum: u32) -> String {
    format!("{sum:08x}")
}

fn numbers(text: &str) -> Option<Vec<u32>> {
    let (parts, rest) = text.as_bytes().as_chunks::<DIGITS>();
    let number = |part: &[u8; DIGITS]| u32::from_str_radix(str::from_utf8(part).ok()?, 16).ok();
    rest.is_empty().then(|| parts.iter().map(number).collect())?
}

fn find(text: &[u8], word: &str) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word.as_bytes())
}

/// A writer that only computes a checksum.
struct Sum(Hasher);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dressage_engine::Tensor;

    use crate::weights::{StateDict, write_safetensors};

    fn file() -> Vec<u8> {
        let tensor = |v: &[f32]| Tensor::from_slice(v, &[v.len()]).expect("tensor");
        let tensors = [("b".to_string(), tensor(&[1.5, -2.0])), ("a".to_string(), tensor(&[]))];
        let notes = [("words", "more \"of\" them".to_string())];
        let mut bytes = Vec::new();
        write_safetensors(&tensors, &notes, &mut bytes).expect("written");
        bytes
    }

    fn read(bytes: &[u8]) -> crate::Result<StateDict> {
        let dict = StateDict::from_bytes(Path::new("file"), bytes)?;
        dict.check().map(|()| dict)
    }

    #[test]
    fn every_bit_and_every_length_is_covered() {
        let whole = file();
        let dict = read(&whole).expect("whole");
        assert_eq!(dict.metadata().len(), 1, "the sums are no notes: {:?}", dict.metadata());
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit} of {} can flip", 8 * whole.len());
        }
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes of {} pass", whole.len());
        }
    }

    #[test]
    fn what_differs_is_named() {
        let mut bytes = file();
        *bytes.last_mut().expect("bytes") ^= 1;
        let error = read(&bytes).expect_err("damaged").to_string();
        assert!(error.contains("file: tensor b") && error.contains("damaged"), "{error}");
    }
}
