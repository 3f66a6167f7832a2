//! Pictures from files.
//!
//! Pictures become 8-bit RGB: palettes are expanded, grey is repeated, alpha is dropped, 16 bits
//! are cut to 8, and the orientation in EXIF is applied. Data after the end of a JPEG picture, such
//! as the film of a motion photo, are ignored.
//!
//! PNG pictures equal those of the published pipeline bit for bit. JPEG pictures may differ by a
//! few steps in single pixels: decoders may choose how they round and upsample the colour channels.
//!
//! # Memory
//! A header that promises more pixels than its file could encode is refused before anything is
//! allocated for them. Deflate expands at most 1032 times, and each block of a JPEG takes a bit or
//! more. So a file of `n` bytes has at most 8256 `n` pixels (of one bit each). Reading it takes at
//! most 16 bytes a pixel besides the file itself. An embedded colour profile is not used here, but
//! the decoder unpacks it, which takes up to 2048 bytes per byte of the profile. A profile of more
//! than 64 MiB is not read.

use std::cell::Cell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::form::{Form, PNG, UNKNOWN, form};
use super::jpeg::{self, Segments};
use super::walk::special;
use crate::plan::mib;
use crate::{Image, Result, TrainError, machine};

/// Reads the bytes of a regular file. Anything else, such as a pipe, could keep a reader waiting.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |source| TrainError::Read { path: path.into(), source };
    regular(path)?;
    std::fs::read(path).map_err(fail)
}

/// Refuses anything but a regular file.
pub(super) fn regular(path: &Path) -> Result<std::fs::Metadata> {
    let fail = |source| TrainError::Read { path: path.into(), source };
    let meta = path.metadata().map_err(fail)?;
    match special(&meta) {
        None => Ok(meta),
        Some(found) => Err(TrainError::NoFile { path: path.into(), found }),
    }
}

pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> TrainError {
    let what = what.to_string();
    // Some of the decoders' errors print their structures or bytes of the file.
    let readable = what.len() < 200 && !what.contains(|c: char| c == '{' || c.is_control());
    let what = if readable { what } else { "its data contradicts itself".into() };
    TrainError::Decode { path: path.into(), what }
}

/// Reads the PNG or JPEG picture in `path` as RGB.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::NoFile`], [`TrainError::PictureForm`] for a file that is
/// something else, or [`TrainError::Decode`], naming the file.
pub fn read_image(path: &Path) -> Result<Image> {
    decode_image(path, &read(path)?)
}

/// [`read_image`] for bytes in memory; `path` is used in errors only.
///
/// # Errors
/// As [`read_image`], except for reading.
pub fn decode_image(path: &Path, bytes: &[u8]) -> Result<Image> {
    let bytes = picture(path, bytes)?;
    let header = || -> image::ImageResult<_> {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(BESIDES);
        reader.limits(limits);
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        Ok((decoder, orientation))
    };
    let (decoder, orientation) = header().map_err(|error| damaged(path, error))?;
    let (w, h) = decoder.dimensions();
    fits(bytes, bytes.len() as u64, w, h).map_err(|what| damaged(path, what))?;
    has_room(path, decoder.total_bytes().saturating_add(3 * u64::from(w) * u64::from(h)))?;
    let decoded = contained(|| DynamicImage::from_decoder(decoder));
    let decoded = decoded.ok_or_else(|| damaged(path, "its data is malformed"))?;
    let mut picture = decoded.map_err(|error| damaged(path, error))?;
    picture.apply_orientation(orientation);
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let data = match &picture {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            picture.into_rgb16().into_raw().into_iter().map(|v| (v >> 8) as u8).collect()
        }
        _ => picture.into_rgb8().into_raw(),
    };
    Image::from_data(w, h, data)
}

/// The bytes of the picture, without data after its end.
pub(super) fn picture<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    match form(bytes) {
        _ if bytes.is_empty() => Err(damaged(path, "it is empty")),
        Form::Png if !has_whole_palette(bytes) => {
            Err(damaged(path, "its palette ends in the middle of a colour"))
        }
        Form::Png => Ok(bytes),
        Form::Jpeg => Ok(&bytes[..jpeg_end(path, &jpeg::segments(bytes))?]),
        Form::Other(other) => {
            Err(TrainError::PictureForm { path: path.into(), found: other.name, way: other.way })
        }
        Form::Unknown => {
            let way = "convert it to one of them, or download it again if it should be one";
            Err(TrainError::PictureForm { path: path.into(), found: UNKNOWN, way })
        }
    }
}

/// End of a JPEG picture. The decoder would fill a cut picture with grey and not report it.
pub(super) fn jpeg_end(path: &Path, found: &Segments<'_>) -> Result<usize> {
    if let Some(found) = found.unknown() {
        let way = "convert it to a common one, or to PNG";
        return Err(TrainError::PictureForm { path: path.into(), found, way });
    }
    found.end.ok_or_else(|| damaged(path, "the JPEG data ends before the end of the picture"))
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a decoder whose panics become errors. A program's panic hook may
/// then stay silent: the error describes the file.
pub fn panics_are_contained() -> bool {
    CONTAINED.get()
}

/// Returns the result of `decode`, or `None` if it panics. `zune-jpeg` 0.5.15 panics on some
/// malformed pictures. The decoder is consumed, so no half-done state is left behind.
fn contained<T>(decode: impl FnOnce() -> T) -> Option<T> {
    CONTAINED.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(false);
    decoded.ok()
}

/// Most bytes that a decoder may take besides pixels.
const BESIDES: u64 = 64 << 20;

/// Most bytes that one byte of deflate expands to: 258 for two bits.
const DEFLATE: u64 = 1032;

/// Most pixels per byte of a JPEG. A block of 8x8 takes a bit or more. 32x32 pixels have at least
/// eight blocks: one component is sampled fully across and a quarter down, another the other way
/// round.
const JPEG: u64 = 1024;

/// Checks that a file of `file` bytes that begins with `head` can hold `w` x `h` pixels.
pub(super) fn fits(head: &[u8], file: u64, w: u32, h: u32) -> std::result::Result<(), String> {
    let pixels = u64::from(w) * u64::from(h);
    let most = match head.get(24..26) {
        // Depth and colour type, in the header that begins any PNG.
        Some(&[depth, colour]) if is_png(head) => {
            let channels = [1, 1, 3, 1, 2, 1, 4].get(usize::from(colour)).copied().unwrap_or(1);
            8 * DEFLATE * file / (channels * u64::from(depth)).max(1)
        }
        _ => JPEG * file,
    };
    if pixels <= most {
        return Ok(());
    }
    Err(format!("its header promises {w}x{h} pixels, more than {file} bytes can hold"))
}

/// Bytes of a picture from which free memory is checked before it is decoded.
const LARGE: u64 = 64 << 20;

/// Fails if a picture takes `bytes` and this process cannot take as many.
pub(super) fn has_room(path: &Path, bytes: u64) -> Result<()> {
    let room = (bytes >= LARGE).then(machine::room).flatten();
    let Some(room) = room.filter(|room| (room.bytes as u64) < bytes) else { return Ok(()) };
    let needed = mib(usize::try_from(bytes).unwrap_or(usize::MAX));
    let available = format!("{} are available {}", mib(room.bytes), room.limit);
    Err(TrainError::Picture { path: path.into(), needed, available })
}

pub(super) fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(PNG)
}

/// Whether each palette in a PNG consists of whole colours: `png` 0.18.1 assumes it and panics
/// otherwise.
fn has_whole_palette(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], behind)) = rest.split_first_chunk::<8>() {
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if kind == b"PLTE" && !size.is_multiple_of(3) {
            return false;
        }
        // A checksum of four bytes follows.
        rest = behind.get(size.saturating_add(4)..).unwrap_or_default();
    }
    true
}
