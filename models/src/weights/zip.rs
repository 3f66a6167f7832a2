//! The directory of a zip archive, enough of it to map what PyTorch stores.
//!
//! PyTorch writes its archives without compression. So an entry is a range of the mapped file, and
//! nothing is unpacked, copied or written. A general zip crate has decompressors, encryption and
//! writing, and reads entries through a stream. This module reads only offsets, with bounds checks.
//! Names are keys of a table, never paths: no file of that name is opened. Checksums are compared
//! when an entry is first used ([`super::archive_entry`]).

use std::collections::BTreeMap;
use std::ops::Range;

use super::archive_entry::{agrees, differs};
use super::container::{Fault, FileResult};
use super::shown;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// The entries of an archive by name.
pub struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<&'a str, Entry>,
    /// Start of the directory; entries are before it.
    directory: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    header: u64,
    sum: u32,
}

fn cut() -> Fault {
    Fault::damaged("is cut short: the directory at the end of the archive is missing")
}

fn damaged(what: &str) -> Fault {
    Fault::damaged(format!("has a damaged archive directory ({what})"))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

/// A position in the file; `None` beyond the machine's address range.
fn place(n: u64) -> Option<usize> {
    usize::try_from(n).ok()
}

impl<'a> Archive<'a> {
    /// Reads the directory of an archive. This takes a few words per entry, and an entry takes at
    /// least 46 bytes of the file.
    pub fn open(bytes: &'a [u8]) -> FileResult<Archive<'a>> {
        let (directory, count) = end(bytes)?;
        let mut at = place(directory).ok_or_else(cut)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let (name, entry, next) =
                entry(bytes, at).ok_or_else(|| damaged("an entry is out of bounds"))??;
            if entries.insert(name, entry).is_some() {
                return Err(damaged(&format!("two entries are named {}", shown(name))));
            }
            at = next;
        }
        Ok(Archive { bytes, entries, directory })
    }

    /// Names of the entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Range of an entry's bytes in the file; `None` if there is no such entry.
    pub fn range(&self, name: &str) -> Option<FileResult<Range<usize>>> {
        let (name, entry) = self.entries.get_key_value(name)?;
        Some(self.locate(name, entry))
    }

    /// The CRC-32 of an entry, from the directory.
    pub fn sum(&self, name: &str) -> Option<u32> {
        self.entries.get(name).map(|entry| entry.sum)
    }

    /// The bytes of an entry, compared with its checksum.
    pub fn get(&self, name: &str) -> Option<FileResult<&'a [u8]>> {
        let (range, sum) = (self.range(name)?, self.sum(name)?);
        Some(range.and_then(|range| match agrees(&self.bytes[range.clone()], sum) {
            true => Ok(&self.bytes[range]),
            false => Err(Fault::damaged(differs(name))),
        }))
    }

    fn locate(&self, name: &str, entry: &Entry) -> FileResult<Range<usize>> {
        let Entry { flags, method, packed, size, header, .. } = *entry;
        // Bit 0: encrypted.
        if flags & 1 != 0 || method != 0 || packed != size {
            return Err(format!(
                "holds {} compressed or encrypted; PyTorch stores entries as they are, so unpack \
                 the archive and save the checkpoint again",
                shown(name)
            )
            .into());
        }
        let outside = || damaged(&format!("{} lies outside the file", shown(name)));
        let at = place(header).ok_or_else(outside)?;
        let own = self.bytes.get(at..).and_then(|b| b.get(..30)).ok_or_else(outside)?;
        let (name_len, extra) = (u16_at(own, 26), u16_at(own, 28));
        let (Some(name_len), Some(extra)) = (name_len, extra) else { return Err(outside()) };
        let own_name = self.bytes.get(at + 30..at + 30 + usize::from(name_len));
        if !own.starts_with(LOCAL) || own_name != Some(name.as_bytes()) {
            return Err(damaged(&format!("no entry {} where it should be", shown(name))));
        }
        let start = at + 30 + usize::from(name_len) + usize::from(extra);
        let end = (start as u64).checked_add(size).filter(|end| *end <= self.directory);
        let end = end.and_then(place).ok_or_else(outside)?;
        Ok(start..end)
    }
}

/// Start of the directory and number of its entries.
fn end(bytes: &[u8]) -> FileResult<(u64, u64)> {
    const LEN: usize = 22;
    // A comment of up to 64 KiB may follow. The right record is the last one whose comment ends
    // with the file.
    let last = bytes.len().checked_sub(LEN).ok_or_else(cut)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let ends = |at: &usize| {
        let comment = u16_at(bytes, at + 20).map(usize::from);
        bytes[*at..].starts_with(END) && comment.is_some_and(|n| at + LEN + n == bytes.len())
    };
    let at = (first..=last).rev().find(ends).ok_or_else(cut)?;
    let short = || {
        let (count, start) = (u16_at(bytes, at + 10)?, u32_at(bytes, at + 16)?);
        Some((u64::from(start), u64::from(count)))
    };
    let (start, count) = match at.checked_sub(20) {
        Some(locator) if bytes[locator..].starts_with(LOCATOR_64) => {
            end_64(bytes, locator).ok_or_else(|| damaged("its ZIP64 record is invalid"))?
        }
        _ => short().ok_or_else(cut)?,
    };
    if start > at as u64 || count > (bytes.len() / 46) as u64 {
        return Err(damaged("it lists more than the file holds"));
    }
    Ok((start, count))
}

/// As [`end`], from the record of archives beyond 4 GiB.
fn end_64(bytes: &[u8], locator: usize) -> Option<(u64, u64)> {
    let at = place(u64_at(bytes, locator + 8)?)?;
    if !bytes.get(at..)?.starts_with(END_64) {
        return None;
    }
    Some((u64_at(bytes, at + 48)?, u64_at(bytes, at + 32)?))
}

type NamedEntry<'a> = (&'a str, Entry, usize);

/// The entry whose record begins at `at`, and the start of the next one. `None` beyond the end of
/// the file.
fn entry(bytes: &[u8], at: usize) -> Option<FileResult<NamedEntry<'_>>> {
    let record = bytes.get(at..)?;
    if !record.starts_with(ENTRY) {
        return Some(Err(damaged("an entry has no signature")));
    }
    let [name_len, extra_len, comment_len] =
        [u16_at(record, 28)?, u16_at(record, 30)?, u16_at(record, 32)?].map(usize::from);
    let mut entry = Entry {
        flags: u16_at(record, 8)?,
        method: u16_at(record, 10)?,
        packed: u32_at(record, 20)?.into(),
        size: u32_at(record, 24)?.into(),
        header: u32_at(record, 42)?.into(),
        sum: u32_at(record, 16)?,
    };
    let name = record.get(46..46 + name_len)?;
    let extra = record.get(46 + name_len..46 + name_len + extra_len)?;
    let Ok(name) = std::str::from_utf8(name) else {
        return Some(Err(damaged("a name is not UTF-8")));
    };
    if widen(&mut entry, extra).is_none() {
        return Some(Err(damaged(&format!("the sizes of {} are missing", shown(name)))));
    }
    Some(Ok((name, entry, at + 46 + name_len + extra_len + comment_len)))
}

/// Reads 64-bit sizes from the extra field for those 32-bit sizes that refer to it.
fn widen(entry: &mut Entry, extra: &[u8]) -> Option<()> {
    const FULL: u64 = u32::MAX as u64;
    let mut fields: Vec<&mut u64> = [&mut entry.size, &mut entry.packed, &mut entry.header]
        .into_iter()
        .filter(|field| **field == FULL)
        .collect();
    if fields.is_empty() {
        return Some(());
    }
    let mut at = 0;
    loop {
        let (tag, len) = (u16_at(extra, at)?, usize::from(u16_at(extra, at + 2)?));
        let body = extra.get(at + 4..at + 4 + len)?;
        if tag == 1 {
            for (i, field) in fields.iter_mut().enumerate() {
                **field = u64_at(body, 8 * i)?;
            }
            return Some(());
        }
        at += 4 + len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made {
        bytes: Vec<u8>,
        directory: Vec<u8>,
        count: u16,
    }

    impl Made {
        fn new() -> Made {
            Made { bytes: Vec::new(), directory: Vec::new(), count: 0 }
        }

        fn entry(&mut self, name: &str, data: &[u8], method: u16, wide: bool) -> &mut Made {
            let at = self.bytes.len() as u32;
            let (n, len) = (name.len() as u16, data.len() as u32);
            self.bytes.extend(LOCAL);
            self.bytes.extend([0; 22]);
            self.bytes.extend(n.to_le_bytes());
            self.bytes.extend(3u16.to_le_bytes());
            self.bytes.extend(name.as_bytes());
            self.bytes.extend([9; 3]);
            self.bytes.extend(data);
            let mut extra = Vec::new();
            if wide {
                extra.extend([0xAA, 0, 2, 0, 1, 1, 1, 0, 24, 0]);
                for v in [u64::from(len), u64::from(len), u64::from(at)] {
                    extra.extend(v.to_le_bytes());
                }
            }
            let field = |v: u32| if wide { u32::MAX } else { v }.to_le_bytes();
            let d = &mut self.directory;
            d.extend(ENTRY);
            d.extend([0; 6]);
            d.extend(method.to_le_bytes());
            d.extend([0; 8]);
            d.extend(field(len));
            d.extend(field(len));
            d.extend(n.to_le_bytes());
            d.extend((extra.len() as u16).to_le_bytes());
            d.extend([0; 10]);
            d.extend(field(at));
            d.extend(name.as_bytes());
            d.extend(extra);
            self.count += 1;
            self
        }

        fn finish(&self, comment: &[u8]) -> Vec<u8> {
            let start = self.bytes.len() as u32;
            let mut all = [self.bytes.as_slice(), &self.directory].concat();
            all.extend(END);
            all.extend([0; 4]);
            all.extend(self.count.to_le_bytes());
            all.extend(self.count.to_le_bytes());
            all.extend((self.directory.len() as u32).to_le_bytes());
            all.extend(start.to_le_bytes());
            all.extend((comment.len() as u16).to_le_bytes());
            all.extend(comment);
            all
        }
    }

    fn refused(bytes: &[u8], word: &str) {
        let opened = Archive::open(bytes).and_then(|a| a.get("a").unwrap_or(Ok(&[])).map(|_| ()));
        let error = opened.expect_err("this should have been refused");
        assert!(error.cause.contains(word), "{error:?} lacks {word:?}");
    }

    #[test]
    fn entries_are_found_with_narrow_and_wide_sizes() {
        for wide in [false, true] {
            let bytes = Made::new()
                .entry("a", b"first", 0, wide)
                .entry("dir/b", b"", 0, wide)
                .finish(b"PK\x05\x06 in a comment");
            let archive = Archive::open(&bytes).expect("archive");
            assert_eq!(archive.names().collect::<Vec<_>>(), ["a", "dir/b"]);
            assert_eq!(archive.get("a"), Some(Ok(b"first".as_slice())));
            assert_eq!(archive.get("dir/b"), Some(Ok(b"".as_slice())));
            assert_eq!(archive.get("b"), None);
        }
    }

    #[test]
    fn what_does_not_hold_is_refused() {
        let whole = Made::new().entry("a", b"first", 0, false).finish(b"");
        for keep in 0..whole.len() {
            refused(&whole[..keep], "cut short");
        }
        refused(&Made::new().entry("a", b"x", 8, false).finish(b""), "compressed");
        let twice = Made::new().entry("a", b"1", 0, false).entry("a", b"2", 0, false).finish(b"");
        refused(&twice, "two entries are named a");
        let changed = |at: usize, to: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            bytes
        };
        let (directory, end) = (39, whole.len() - 22);
        refused(&changed(30, b"b"), "where it should be");
        refused(&changed(directory + 20, &[255, 255, 0, 0, 255, 255, 0, 0]), "outside the file");
        refused(&changed(directory + 24, &[255; 4]), "the sizes of a are missing");
        refused(&changed(directory + 42, &[200, 0, 0, 0]), "outside the file");
        refused(&changed(directory + 8, &[1]), "encrypted");
        refused(&changed(directory, b"KP"), "no signature");
        refused(&changed(directory + 46, &[0xff]), "not UTF-8");
        refused(&changed(end + 10, &[2, 0]), "no signature");
        refused(&changed(end + 10, &[255, 255]), "more than the file holds");
        refused(&changed(end + 16, &[255, 255, 255, 0]), "more than the file holds");
    }
}
