//! Pictures and labels from files.
//!
//! Pictures become 8-bit RGB whatever they were: palettes are expanded, grey is repeated, alpha
//! dropped, 16 bits cut to 8, and the orientation in EXIF applied. Labels are the opposite case:
//! their numbers mean classes, so a palette PNG gives its INDEX and depths of 1, 2 and 4 bits are
//! unpacked without scaling. The decoder behind `image` expands palettes, hence labels go through
//! `png` directly.
//!
//! PNG pictures equal those of the published pipeline bit for bit. JPEG pictures may differ by a
//! few steps in single pixels: decoders are free in how they round and enlarge the colour
//! channels.
//!
//! # Memory
//! A header that promises more pixels than its file could code is refused before anything is
//! allocated for them: deflate expands at most 1032 times, and each block of a JPEG takes a bit or
//! more. So a file of `n` bytes holds at most 8256 `n` pixels (of one bit each), and reading it
//! takes at most 16 bytes a pixel besides the file itself. A colour profile inside, which nothing
//! here looks at but the decoder unpacks, takes up to 2048 bytes for each of its own, and one of
//! more than 64 MiB is not read.

use std::cell::Cell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dressage_kernels::allocate::zeroed;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::table::Table;
use crate::palette::train_id_of_colour;
use crate::plan::mib;
use crate::{IGNORE, Image, LabelMap, Result, TrainError, machine};

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| TrainError::Read { path: path.into(), source })
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> TrainError {
    let what = what.to_string();
    // Some of the decoders' errors print their structures or bytes of the file.
    let readable = what.len() < 200 && !what.contains(|c: char| c == '{' || c.is_control());
    let what = if readable { what } else { "its data contradicts itself".into() };
    TrainError::Decode { path: path.into(), what }
}

/// The PNG or JPEG picture in `path` as RGB.
///
/// # Errors
/// [`TrainError::Read`] or [`TrainError::Decode`], naming the file.
pub fn read_image(path: &Path) -> Result<Image> {
    decode_image(path, &read(path)?)
}

/// [`read_image`] for bytes at hand; `path` is named in errors only.
///
/// # Errors
/// [`TrainError::Decode`], naming the file.
pub fn decode_image(path: &Path, bytes: &[u8]) -> Result<Image> {
    if is_cut_jpeg(bytes) {
        return Err(damaged(path, "the JPEG data ends before the end of the picture"));
    }
    if is_png(bytes) && !has_whole_palette(bytes) {
        return Err(damaged(path, "its palette ends within a colour"));
    }
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
    fits(bytes, w, h).map_err(|what| damaged(path, what))?;
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

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a decoder whose panics become errors. A program's panic hook may
/// stay silent then: what is to be said of the file is in the error.
pub fn panics_are_contained() -> bool {
    CONTAINED.get()
}

/// What `decode` returns; `None` if it panics, as `zune-jpeg` 0.5.15 does on some malformed
/// pictures. The decoder is given away, so nothing half done is left behind.
fn contained<T>(decode: impl FnOnce() -> T) -> Option<T> {
    CONTAINED.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    CONTAINED.set(false);
    decoded.ok()
}

/// Most bytes that a decoder may take for what is no pixel.
const BESIDES: u64 = 64 << 20;

/// Most bytes that one byte of deflate expands to: 258 for two bits.
const DEFLATE: u64 = 1032;

/// Most pixels that one byte of a JPEG stands for. A block of 8x8 takes a bit or more; 32x32 pixels
/// have eight blocks at the least, where one component is sampled fully across and a quarter down
/// and another the other way round.
const JPEG: u64 = 1024;

/// Whether a file of these bytes can hold `w` x `h` pixels.
fn fits(bytes: &[u8], w: u32, h: u32) -> std::result::Result<(), String> {
    let (pixels, file) = (u64::from(w) * u64::from(h), bytes.len() as u64);
    let most = match bytes.get(24..26) {
        // Depth and kind of colour, in the header that begins any PNG.
        Some(&[depth, colour]) if is_png(bytes) => {
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

/// Bytes of a picture from which the memory for it is looked for before it is decoded.
const LARGE: u64 = 64 << 20;

/// Fails if a picture that takes `bytes` is more than this process can take.
fn has_room(path: &Path, bytes: u64) -> Result<()> {
    let room = (bytes >= LARGE).then(machine::room).flatten();
    let Some(room) = room.filter(|room| (room.bytes as u64) < bytes) else { return Ok(()) };
    let needed = mib(usize::try_from(bytes).unwrap_or(usize::MAX));
    let available = format!("{} are available {}", mib(room.bytes), room.limit);
    Err(TrainError::Picture { path: path.into(), needed, available })
}

fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// Whether each palette in a PNG is made of whole colours: `png` 0.18.1 takes that for granted and
/// panics where it is not.
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

/// Whether `bytes` is a JPEG file without its end marker. The decoder fills the rest of such a
/// picture with grey and says nothing. Coded data never contains the byte pairs searched for, so
/// only what follows the last start of scan counts: a thumbnail inside the header has markers of
/// its own.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    let ends = match (last([0xFF, 0xDA]), last([0xFF, 0xD9])) {
        (Some(scan), Some(end)) => end > scan,
        _ => false,
    };
    bytes.starts_with(&[0xFF, 0xD8]) && !ends
}

/// Numbers of a label file as they are stored.
enum Raw {
    Index(Vec<u8>),
    Wide(Vec<u16>),
    Colour(Vec<u8>),
}

/// The label in the PNG file `path`, its values replaced by classes through `table`.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::Decode`], [`TrainError::LabelFormat`] for a picture that
/// holds no index per pixel, [`TrainError::LabelValue`] or [`TrainError::LabelColour`] with the
/// first pixel that is no class.
pub fn read_label(path: &Path, table: &Table) -> Result<LabelMap> {
    decode_label(path, &read(path)?, table)
}

/// [`read_label`] for bytes at hand; `path` is named in errors only.
///
/// # Errors
/// As [`read_label`], but for [`TrainError::Read`].
pub fn decode_label(path: &Path, bytes: &[u8], table: &Table) -> Result<LabelMap> {
    let (w, h, raw) = raw(path, bytes, table)?;
    let last = table.names().len().saturating_sub(1);
    let wrong = |k: usize, value: u16| {
        let (x, y) = (k % w, k / w);
        TrainError::LabelValue { path: path.into(), x, y, value: value.into(), last }
    };
    let data = match raw {
        Raw::Index(mut data) => {
            let known: [u8; 256] = std::array::from_fn(|v| table.class(v as u16).unwrap_or(IGNORE));
            let bad: [bool; 256] = std::array::from_fn(|v| table.class(v as u16).is_none());
            if let Some(k) = data.iter().position(|&v| bad[v as usize]) {
                return Err(wrong(k, data[k].into()));
            }
            data.iter_mut().for_each(|v| *v = known[*v as usize]);
            data
        }
        Raw::Wide(data) => {
            let classes = data.iter().enumerate();
            classes
                .map(|(k, &v)| table.class(v).ok_or_else(|| wrong(k, v)))
                .collect::<Result<_>>()?
        }
        Raw::Colour(data) => from_colours(path, w, &data, table)?,
    };
    LabelMap::from_data(w, h, data)
}

fn from_colours(path: &Path, w: usize, data: &[u8], table: &Table) -> Result<Vec<u8>> {
    // Neighbours mostly share a colour, so the last answer is kept.
    let mut last = ([0; 3], IGNORE);
    let pixels = data.as_chunks::<3>().0.iter().enumerate();
    pixels
        .map(|(k, &rgb)| {
            if rgb != last.0 {
                let Some(train_id) = train_id_of_colour(rgb) else {
                    return Err(TrainError::LabelColour {
                        path: path.into(),
                        x: k % w,
                        y: k / w,
                        rgb,
                    });
                };
                last = (rgb, table.grouped(train_id));
            }
            Ok(last.1)
        })
        .collect()
}

fn raw(path: &Path, bytes: &[u8], table: &Table) -> Result<(usize, usize, Raw)> {
    if !is_png(bytes) {
        return Err(TrainError::LabelFormat { path: path.into(), found: "non-PNG".into() });
    }
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|e| damaged(path, e))?;
    fits(bytes, reader.info().width, reader.info().height).map_err(|what| damaged(path, what))?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged(path, "too large"))?;
    has_room(path, 2 * size as u64)?;
    let mut data = zeroed(size)?;
    let info = reader.next_frame(&mut data).map_err(|e| damaged(path, e))?;
    data.truncate(info.buffer_size());
    let (w, h) = (info.width as usize, info.height as usize);
    use png::{BitDepth, ColorType};
    let raw = match (info.color_type, info.bit_depth) {
        (ColorType::Indexed | ColorType::Grayscale, BitDepth::Eight) => Raw::Index(data),
        (ColorType::Grayscale, BitDepth::Sixteen) => Raw::Wide(wide(&data, 1)),
        (ColorType::Indexed | ColorType::Grayscale, depth) => {
            Raw::Index(unpack(&data, w, info.line_size, depth as usize))
        }
        (ColorType::Rgb, BitDepth::Sixteen) if table.red => Raw::Wide(wide(&data, 3)),
        (ColorType::Rgba, BitDepth::Sixteen) if table.red => Raw::Wide(wide(&data, 4)),
        (ColorType::Rgb, BitDepth::Eight) if table.colours => Raw::Colour(data),
        (ColorType::Rgba, BitDepth::Eight) if table.colours => {
            Raw::Colour(data.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect())
        }
        (colour, depth) => {
            let found = format!("{colour:?} {}-bit", depth as u8);
            return Err(TrainError::LabelFormat { path: path.into(), found });
        }
    };
    Ok((w, h, raw))
}

/// First of `channels` big-endian 16-bit values of each pixel.
fn wide(bytes: &[u8], channels: usize) -> Vec<u16> {
    bytes.chunks_exact(2 * channels).map(|p| u16::from_be_bytes([p[0], p[1]])).collect()
}

/// Values of `depth` (1, 2 or 4) bits, the leftmost pixel in the highest bits, each row starting
/// at a byte.
fn unpack(bytes: &[u8], w: usize, line: usize, depth: usize) -> Vec<u8> {
    let per_byte = 8 / depth;
    let mask = (1u16 << depth) as u8 - 1;
    let mut out = Vec::with_capacity(bytes.len() * per_byte);
    for row in bytes.chunks_exact(line.max(1)) {
        out.extend((0..w).map(|x| {
            let shift = 8 - depth * (x % per_byte + 1);
            (row[x / per_byte] >> shift) & mask
        }));
    }
    out
}
