//! A zip archive in the layout of PyTorch's writer.
//!
//! Nothing is compressed. Sizes and checksums follow the data, and data starts at multiples of 64
//! bytes.

use std::io::{self, SeekFrom};

use super::{Content, Entry, Out, put};

/// One entry of the directory.
struct Listed {
    name: String,
    crc: u32,
    size: u32,
    at: u32,
}

/// A zip archive that is being written.
pub struct Archive<'a> {
    out: &'a mut dyn Out,
    root: String,
    listed: Vec<Listed>,
    sums: bool,
}

/// PyTorch's flags: sizes follow the data (bit 3), names are UTF-8 (bit 11).
const FLAGS: u16 = 0x0808;

impl<'a> Archive<'a> {
    /// Starts an archive with all files in the folder `root`.
    pub fn new(out: &'a mut dyn Out, root: &str) -> Archive<'a> {
        Archive { out, root: root.to_string(), listed: Vec::new(), sums: true }
    }

    /// The same archive with zeros for checksums.
    pub fn unsummed(self) -> Archive<'a> {
        Archive { sums: false, ..self }
    }

    /// Adds a file with these bytes.
    ///
    /// # Errors
    /// Errors of the output.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let content = Content::Bytes(bytes.to_vec());
        let (kind, shape) = (super::ScalarType::U8, vec![bytes.len() as u64]);
        self.storage(name, &Entry { name: String::new(), kind, shape, content })
    }

    /// Adds the elements of a tensor under `name`.
    ///
    /// # Errors
    /// Errors of the output; more than 4 GiB in all.
    pub fn storage(&mut self, name: &str, entry: &Entry) -> io::Result<()> {
        let name = format!("{}/{name}", self.root);
        let at = small(self.out.stream_position()?)?;
        let size = small(entry.written())?;
        let crc = match &entry.content {
            _ if !self.sums => 0,
            Content::Bytes(bytes) => crc32fast::hash(bytes),
            _ => crc_of_zeros(entry.written()),
        };
        // An extra field of `Z` bytes moves the data to the next multiple of 64.
        let header = u64::from(at) + 30 + name.len() as u64 + 4;
        let padding = header.next_multiple_of(64) - header;
        let mut head = b"PK\x03\x04".to_vec();
        words(&mut head, &[0, FLAGS, 0, 0, 0]);
        head.extend([0; 12]);
        words(&mut head, &[name.len() as u16, padding as u16 + 4]);
        head.extend(name.as_bytes());
        head.extend(b"FB");
        words(&mut head, &[padding as u16]);
        head.extend(vec![b'Z'; padding as usize]);
        self.out.write_all(&head)?;
        put(self.out, entry)?;
        let mut tail = b"PK\x07\x08".to_vec();
        longs(&mut tail, &[crc, size, size]);
        self.out.write_all(&tail)?;
        self.listed.push(Listed { name, crc, size, at });
        Ok(())
    }

    /// Writes the directory and its end records, the 64-bit form first, as PyTorch does.
    ///
    /// # Errors
    /// Errors of the output; more than 4 GiB in all.
    pub fn finish(self) -> io::Result<()> {
        let at = self.out.stream_position()?;
        let mut tail = Vec::new();
        for entry in &self.listed {
            tail.extend(b"PK\x01\x02");
            words(&mut tail, &[0, 0, FLAGS, 0, 0, 0]);
            longs(&mut tail, &[entry.crc, entry.size, entry.size]);
            words(&mut tail, &[entry.name.len() as u16, 0, 0, 0, 0]);
            longs(&mut tail, &[0, entry.at]);
            tail.extend(entry.name.as_bytes());
        }
        let (count, size) = (self.listed.len() as u64, tail.len() as u64);
        let end = at + size;
        tail.extend(b"PK\x06\x06");
        tail.extend(44u64.to_le_bytes());
        words(&mut tail, &[0x031E, 45]);
        longs(&mut tail, &[0, 0]);
        [count, count, size, at, 0x0706_4B50].iter().for_each(|v| tail.extend(v.to_le_bytes()));
        tail.extend(end.to_le_bytes());
        longs(&mut tail, &[1]);
        tail.extend(b"PK\x05\x06");
        words(&mut tail, &[0, 0, count as u16, count as u16]);
        longs(&mut tail, &[size as u32, small(at)?]);
        words(&mut tail, &[0]);
        self.out.seek(SeekFrom::Start(at))?;
        self.out.write_all(&tail)?;
        self.out.flush()
    }
}

fn words(to: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|v| to.extend(v.to_le_bytes()));
}

fn longs(to: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|v| to.extend(v.to_le_bytes()));
}

fn small(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("an archive of more than 4 GiB"))
}

/// Checksum of `n` zeros, joined from blocks of powers of two.
fn crc_of_zeros(n: u64) -> u32 {
    let mut block = crc32fast::Hasher::new();
    block.update(&[0]);
    let mut sum = crc32fast::Hasher::new();
    let mut left = n;
    while left > 0 {
        if left & 1 == 1 {
            sum.combine(&block);
        }
        let half = block.clone();
        block.combine(&half);
        left >>= 1;
    }
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_zeros_needs_no_zeros() {
        for n in [0, 1, 2, 63, 1000] {
            assert_eq!(crc_of_zeros(n), crc32fast::hash(&vec![0; n as usize]), "{n}");
        }
    }
}
