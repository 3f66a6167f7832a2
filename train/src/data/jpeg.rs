//! End of the first picture in a JPEG file, and the values in its headers.
//!
//! A file is a sequence of segments, each a marker with a length, and of scans, whose coded data
//! follow without a length. Cameras put thumbnails into segments, and films, maps or further
//! pictures after the end. So markers are found by walking over the segments and not by searching.

/// Contents of the segments of a JPEG file.
#[derive(Debug, Default)]
pub(super) struct Segments<'a> {
    /// One past the end marker; `None` where the file ends before the picture does.
    pub end: Option<usize>,
    /// Whether another picture begins before this one has ended.
    pub broken: bool,
    /// Marker of the frame: `0xC0` for baseline.
    pub frame: u8,
    /// Bits per sample.
    pub depth: u8,
    /// Width in pixels.
    pub w: u16,
    /// Height in pixels.
    pub h: u16,
    /// EXIF data without their identifier.
    pub exif: Option<&'a [u8]>,
}

impl Segments<'_> {
    /// Coding of the picture, if the decoder does not support it.
    pub fn unknown(&self) -> Option<&'static str> {
        match self.frame {
            0xC3 | 0xC7 => Some("a lossless JPEG picture"),
            0xC5 | 0xC6 => Some("a hierarchical JPEG picture"),
            0xC9..=0xCB | 0xCD..=0xCF => Some("a JPEG picture with arithmetic coding"),
            0xC0..=0xC2 if self.depth == 12 => Some("a JPEG picture of 12 bits"),
            _ => None,
        }
    }
}

/// Walks over the segments of `bytes`, which begin with a JPEG's start marker.
pub(super) fn segments(bytes: &[u8]) -> Segments<'_> {
    let mut found = Segments::default();
    let (mut at, mut scans) = (2, 0);
    while let Some((marker, body)) = next_marker(bytes, at) {
        at = body;
        match marker {
            0xD9 => {
                found.end = (scans > 0).then_some(at);
                break;
            }
            0xD8 => {
                found.broken = true;
                break;
            }
            // Restarts and the like have no length.
            0x01 | 0xD0..=0xD7 => continue,
            _ => {}
        }
        let length = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
        let Some(length) = length.map(|l| usize::from(u16::from_be_bytes(*l))) else { break };
        let Some(segment) = bytes.get(at + 2..at + length.max(2)) else { break };
        found.note(marker, segment);
        at += length.max(2);
        if marker == 0xDA {
            scans += 1;
            at = scan_end(bytes, at);
        }
    }
    found
}

impl<'a> Segments<'a> {
    fn note(&mut self, marker: u8, segment: &'a [u8]) {
        match (marker, segment) {
            // Markers of tables are between those of frames.
            (0xC4 | 0xC8 | 0xCC, _) => {}
            (0xC0..=0xCF, &[depth, h0, h1, w0, w1, ..]) if self.frame == 0 => {
                (self.frame, self.depth) = (marker, depth);
                self.h = u16::from_be_bytes([h0, h1]);
                self.w = u16::from_be_bytes([w0, w1]);
            }
            (0xE1, _) if self.exif.is_none() => self.exif = segment.strip_prefix(b"Exif\0\0"),
            _ => {}
        }
    }
}

/// The first marker at or after `from`, and the position after it. Fill bytes before it and stray
/// bytes between segments are skipped, as decoders do.
fn next_marker(bytes: &[u8], from: usize) -> Option<(u8, usize)> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xFF)?;
        at += bytes[at..].iter().position(|byte| *byte != 0xFF)?;
        if bytes[at] != 0 {
            return Some((bytes[at], at + 1));
        }
    }
}

/// End of the coded data that begin at `from`: a marker that may follow a scan. Restarts, stuffed
/// zeros and marks without a meaning belong to the data.
fn scan_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some((marker, behind)) = next_marker(bytes, at) {
        if matches!(marker, 0xC4 | 0xD8..=0xDD | 0xE0..=0xEF | 0xFE) {
            return behind - 2;
        }
        at = behind;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\xFF\xD8\xFF\xE1\0\x0EExif\0\0\xFF\xD8\xFF\xD9\xFF\xDA";
    const FRAME: &[u8] = b"\xFF\xC0\0\x0B\x08\0\x10\0\x20\x01\x01\x11\0";
    const SCAN: &[u8] = b"\xFF\xDA\0\x08\x01\x01\0\0\x3F\0\x12\xFF\0\x34\xFF\xD0\x56";

    #[test]
    fn a_picture_ends_at_its_own_end_marker() {
        let whole = [HEAD, FRAME, SCAN, b"\xFF\xC4\0\x03\x01", SCAN, b"\xFF\xFF\xD9"].concat();
        for behind in [&b""[..], b"\xFF\xDA\xFF\xD8", b"\0\0\0", b"\xFF\xD9", &whole] {
            let bytes = [&whole, behind].concat();
            let found = segments(&bytes);
            assert_eq!(found.end, Some(whole.len()), "{behind:?}");
            assert_eq!((found.w, found.h, found.frame, found.depth), (32, 16, 0xC0, 8));
            assert_eq!(found.exif, Some(&b"\xFF\xD8\xFF\xD9\xFF\xDA"[..]));
        }
        for cut in 2..whole.len() {
            assert_eq!(segments(&whole[..cut]).end, None, "{cut}");
        }
    }

    #[test]
    fn another_picture_is_not_the_end_of_a_cut_one() {
        let cut = [HEAD, FRAME, SCAN].concat();
        let whole = [HEAD, FRAME, SCAN, b"\xFF\xD9"].concat();
        assert_eq!(segments(&[&cut[..], &whole].concat()).end, None);
        assert_eq!(segments(&[HEAD, b"\xFF\xD9"].concat()).end, None, "no scan");
        assert_eq!(segments(&[&cut[..], &[0; 500]].concat()).end, None, "zeros");
    }
}
