//! Facts from the header and the end of a picture, read without decoding it.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use image::metadata::Orientation;
use image::{ImageDecoder as _, ImageReader};
use serde::{Deserialize, Serialize};

use super::super::decode::{damaged, fits, jpeg_end, picture, regular};
use super::super::form::{Form, form};
use super::super::jpeg::{Segments, segments};
use crate::{Result, TrainError};

/// Size and form of a picture file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Width in pixels, as shown.
    pub w: usize,
    /// Height in pixels, as shown.
    pub h: usize,
    /// `PNG` or `JPEG`.
    pub form: String,
}

/// Bytes read from the beginning of a file.
const HEAD: u64 = 64 << 10;

/// Beginning and end of a picture file.
struct Ends {
    file: File,
    length: u64,
    head: Vec<u8>,
    tail: [u8; 12],
}

impl Ends {
    fn read(path: &Path) -> Result<Ends> {
        let fail = |source| TrainError::Read { path: path.into(), source };
        let length = regular(path)?.len();
        let mut file = File::open(path).map_err(fail)?;
        let (mut head, mut tail) = (Vec::new(), [0; 12]);
        (&mut file).take(HEAD).read_to_end(&mut head).map_err(fail)?;
        if length > HEAD {
            file.seek(SeekFrom::End(-12)).and_then(|_| file.read_exact(&mut tail)).map_err(fail)?;
        } else if let Some(last) = head.last_chunk() {
            tail = *last;
        }
        Ok(Ends { file, length, head, tail })
    }

    /// Reads the whole file in place of its beginning.
    fn read_all(&mut self, path: &Path) -> Result<()> {
        let fail = |source| TrainError::Read { path: path.into(), source };
        self.head.clear();
        self.file.rewind().map_err(fail)?;
        self.file.read_to_end(&mut self.head).map_err(fail)?;
        Ok(())
    }
}

/// Reads size and form of the picture in `path`. Truncated files are found as well.
///
/// # Errors
/// As [`read_image`](super::super::read_image), except for faults that only decoding shows.
pub(super) fn image_facts(path: &Path) -> Result<ImageFacts> {
    let mut ends = Ends::read(path)?;
    let (form, (w, h, turned)) = match form(&ends.head) {
        Form::Jpeg => ("JPEG", jpeg(path, &mut ends)?),
        _ => ("PNG", png(path, &mut ends)?),
    };
    fits(&ends.head, ends.length, w, h).map_err(|what| damaged(path, what))?;
    if w == 0 || h == 0 {
        return Err(damaged(path, format!("its header says {w}x{h} pixels")));
    }
    let (w, h) = if turned { (h as usize, w as usize) } else { (w as usize, h as usize) };
    Ok(ImageFacts { w, h, form: form.to_owned() })
}

/// Width and height as stored, and whether EXIF turns the picture on its side.
type Size = (u32, u32, bool);

fn jpeg(path: &Path, ends: &mut Ends) -> Result<Size> {
    let size = |found: &Segments<'_>| {
        let turned = found.exif.and_then(Orientation::from_exif_chunk).is_some_and(on_its_side);
        (u32::from(found.w), u32::from(found.h), turned)
    };
    let found = segments(&ends.head);
    // Most large files end with their picture, so the rest need not be read.
    let ended = found.end.is_some()
        || (ends.length > HEAD && ends.tail.ends_with(b"\xFF\xD9") && !found.broken);
    if ended && found.frame != 0 && found.unknown().is_none() {
        return Ok(size(&found));
    }
    ends.read_all(path)?;
    let found = segments(&ends.head);
    jpeg_end(path, &found)?;
    Ok(size(&found))
}

fn png(path: &Path, ends: &mut Ends) -> Result<Size> {
    picture(path, &ends.head)?;
    if !ends.tail.ends_with(b"IEND\xAE\x42\x60\x82") {
        ends.read_all(path)?;
        if !has_end(&ends.head) {
            return Err(damaged(path, "it ends before its last chunk"));
        }
    }
    ends.file.rewind().map_err(|source| TrainError::Read { path: path.into(), source })?;
    let header = || -> image::ImageResult<_> {
        let reader = ImageReader::new(BufReader::new(&ends.file)).with_guessed_format()?;
        let mut decoder = reader.into_decoder()?;
        let ((w, h), orientation) = (decoder.dimensions(), decoder.orientation()?);
        Ok((w, h, on_its_side(orientation)))
    };
    header().map_err(|error| damaged(path, error))
}

/// Whether the chunks of a PNG reach the one that ends it.
fn has_end(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], behind)) = rest.split_first_chunk::<8>() {
        if kind == b"IEND" {
            return true;
        }
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        rest = behind.get(size.saturating_add(4)..).unwrap_or_default();
    }
    false
}

fn on_its_side(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}
