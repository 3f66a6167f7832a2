//! Labels from files.
//!
//! The numbers of a label are classes. So a palette PNG gives its INDEX, and depths of 1, 2 and 4
//! bits are unpacked without scaling. The decoder behind `image` expands palettes, so labels are
//! decoded by `png` directly.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use dressage_kernels::cpu::allocate::zeroed;
use png::{BitDepth, ColorType};
use serde::{Deserialize, Serialize};

use super::decode::{damaged, fits, has_room, is_png, read};
use super::form::{Form, UNKNOWN, form};
use super::table::Table;
use crate::palette::train_id_of_colour;
use crate::{IGNORE, LabelMap, Result, TrainError};

/// Values of a label file as they are stored.
enum Numbers {
    Index(Vec<u8>),
    Wide(Vec<u16>),
    Colour(Vec<u8>),
    /// A form without an index per pixel, whatever the table.
    None,
}

/// A label file before its values become classes.
struct Raw {
    w: usize,
    h: usize,
    colour: ColorType,
    depth: BitDepth,
    numbers: Numbers,
}

/// Reads the label in the PNG file `path` and maps its values to classes through `table`.
///
/// # Errors
/// [`TrainError::Read`], [`TrainError::NoFile`], [`TrainError::Decode`], [`TrainError::LabelFile`]
/// for a file that is not a PNG, [`TrainError::LabelFormat`] for an image without an index per
/// pixel, [`TrainError::LabelValue`] or [`TrainError::LabelColour`] with the first pixel that is no
/// class.
pub fn read_label(path: &Path, table: &Table) -> Result<LabelMap> {
    decode_label(path, &read(path)?, table)
}

/// [`read_label`] for bytes in memory; `path` is used in errors only.
///
/// # Errors
/// As [`read_label`], except for reading.
pub fn decode_label(path: &Path, bytes: &[u8], table: &Table) -> Result<LabelMap> {
    let Raw { w, h, colour, depth, numbers } = raw(path, bytes)?;
    accept(path, colour, depth, table)?;
    let wrong = |k: usize, value: u16| wrong_value(path, table, w, k, value);
    let data = match numbers {
        Numbers::Index(mut data) => {
            let known: [u8; 256] = std::array::from_fn(|v| table.class(v as u16).unwrap_or(IGNORE));
            let bad: [bool; 256] = std::array::from_fn(|v| table.class(v as u16).is_none());
            if let Some(k) = data.iter().position(|&v| bad[v as usize]) {
                return Err(wrong(k, data[k].into()));
            }
            data.iter_mut().for_each(|v| *v = known[*v as usize]);
            data
        }
        Numbers::Wide(data) => {
            let classes = data.iter().enumerate();
            classes
                .map(|(k, &v)| table.class(v).ok_or_else(|| wrong(k, v)))
                .collect::<Result<_>>()?
        }
        Numbers::Colour(data) => from_colours(path, w, &data, table)?,
        Numbers::None => return Err(format_error(path, colour, depth)),
    };
    LabelMap::from_data(w, h, data)
}

fn wrong_value(path: &Path, table: &Table, w: usize, k: usize, value: u16) -> TrainError {
    let (last, key) = (table.names().len().saturating_sub(1), table.key().to_owned());
    let (path, value) = (path.into(), value.into());
    TrainError::LabelValue { path, x: k % w, y: k / w, value, last, key }
}

fn wrong_colour(path: &Path, w: usize, k: usize, rgb: [u8; 3]) -> TrainError {
    TrainError::LabelColour { path: path.into(), x: k % w, y: k / w, rgb }
}

fn format_error(path: &Path, colour: ColorType, depth: BitDepth) -> TrainError {
    let found = format!("{colour:?} {}-bit", depth as u8);
    TrainError::LabelFormat { path: path.into(), found }
}

fn from_colours(path: &Path, w: usize, data: &[u8], table: &Table) -> Result<Vec<u8>> {
    // Neighbours mostly share a colour, so the last result is kept.
    let mut last = ([0; 3], IGNORE);
    let pixels = data.as_chunks::<3>().0.iter().enumerate();
    pixels
        .map(|(k, &rgb)| {
            if rgb != last.0 {
                let train_id =
                    train_id_of_colour(rgb).ok_or_else(|| wrong_colour(path, w, k, rgb))?;
                last = (rgb, table.grouped(train_id));
            }
            Ok(last.1)
        })
        .collect()
}

/// Checks that the values of such a file can be looked up in `table`.
fn accept(path: &Path, colour: ColorType, depth: BitDepth, table: &Table) -> Result<()> {
    let accepted = match (colour, depth) {
        (ColorType::Indexed | ColorType::Grayscale, _) => true,
        (ColorType::Rgb | ColorType::Rgba, BitDepth::Sixteen) => table.red,
        (ColorType::Rgb | ColorType::Rgba, BitDepth::Eight) => table.colours,
        _ => false,
    };
    if accepted { Ok(()) } else { Err(format_error(path, colour, depth)) }
}

fn raw(path: &Path, bytes: &[u8]) -> Result<Raw> {
    if !is_png(bytes) {
        return Err(no_png(path, bytes));
    }
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|e| damaged(path, e))?;
    let (w, h) = (reader.info().width, reader.info().height);
    fits(bytes, bytes.len() as u64, w, h).map_err(|what| damaged(path, what))?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged(path, "too large"))?;
    has_room(path, 2 * size as u64)?;
    let mut data = zeroed(size)?;
    let info = reader.next_frame(&mut data).map_err(|e| damaged(path, e))?;
    data.truncate(info.buffer_size());
    let (w, h) = (info.width as usize, info.height as usize);
    let (colour, depth) = (info.color_type, info.bit_depth);
    let numbers = match (colour, depth) {
        (ColorType::Indexed | ColorType::Grayscale, BitDepth::Eight) => Numbers::Index(data),
        (ColorType::Grayscale, BitDepth::Sixteen) => Numbers::Wide(wide(&data, 1)),
        (ColorType::Indexed | ColorType::Grayscale, depth) => {
            Numbers::Index(unpack(&data, w, info.line_size, depth as usize))
        }
        (ColorType::Rgb, BitDepth::Sixteen) => Numbers::Wide(wide(&data, 3)),
        (ColorType::Rgba, BitDepth::Sixteen) => Numbers::Wide(wide(&data, 4)),
        (ColorType::Rgb, BitDepth::Eight) => Numbers::Colour(data),
        (ColorType::Rgba, BitDepth::Eight) => Numbers::Colour(
            data.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ),
        _ => Numbers::None,
    };
    Ok(Raw { w, h, colour, depth, numbers })
}

fn no_png(path: &Path, bytes: &[u8]) -> TrainError {
    let (found, way) = match form(bytes) {
        _ if bytes.is_empty() => return damaged(path, "it is empty"),
        Form::Png => return damaged(path, "it ends within the signature of a PNG picture"),
        Form::Jpeg => {
            ("a JPEG picture", "JPEG changes the values of pixels, so export it as PNG again")
        }
        Form::Other(other) if other.is_picture() => (other.name, "export it as PNG"),
        Form::Other(other) => (other.name, other.way),
        Form::Unknown => (UNKNOWN, "export it as PNG, or download it again if it should be one"),
    };
    TrainError::LabelFile { path: path.into(), found, way }
}

/// First of `channels` big-endian 16-bit values of each pixel.
fn wide(bytes: &[u8], channels: usize) -> Vec<u16> {
    bytes.chunks_exact(2 * channels).map(|p| u16::from_be_bytes([p[0], p[1]])).collect()
}

/// Unpacks values of `depth` (1, 2 or 4) bits. The leftmost pixel is in the highest bits, and each
/// row starts at a byte.
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

/// Contents of a label file before its values become classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelFacts {
    /// Width in pixels.
    pub w: usize,
    /// Height in pixels.
    pub h: usize,
    /// Colour type by its number in PNG.
    pub colour: u8,
    /// Bits per channel.
    pub depth: u8,
    /// Each value with its number of pixels and the first of them, in rows from the top. Colours
    /// are `0xRRGGBB`; there are at most `COLOURS` of them.
    pub values: Vec<(u32, u64, u64)>,
}

/// Most colours that [`LabelFacts`] lists, many more than any table has.
const COLOURS: usize = 1024;

/// Reads the contents of the label file `path`.
///
/// # Errors
/// As [`read_label`], except for values that are no class.
pub(super) fn label_facts(path: &Path) -> Result<LabelFacts> {
    let Raw { w, h, colour, depth, numbers } = raw(path, &read(path)?)?;
    let values = match numbers {
        Numbers::Index(data) => count(data.into_iter().map(u32::from)),
        Numbers::Wide(data) => count(data.into_iter().map(u32::from)),
        Numbers::Colour(data) => {
            let colours = data.as_chunks::<3>().0.iter();
            count(colours.map(|&[r, g, b]| u32::from_be_bytes([0, r, g, b])))
        }
        Numbers::None => vec![],
    };
    Ok(LabelFacts { w, h, colour: colour as u8, depth: depth as u8, values })
}

fn count(pixels: impl Iterator<Item = u32>) -> Vec<(u32, u64, u64)> {
    let mut found: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    // Neighbours mostly share a value, so runs are counted.
    let (mut run, mut from, mut n) = (None, 0, 0);
    let mut add = |value: Option<u32>, from: u64, n: u64| {
        let Some(value) = value else { return };
        if found.len() < COLOURS || value <= u16::MAX.into() || found.contains_key(&value) {
            found.entry(value).or_insert((0, from)).0 += n;
        }
    };
    for (k, value) in pixels.enumerate() {
        if run != Some(value) {
            add(run, from, n);
            (run, from, n) = (Some(value), k as u64, 0);
        }
        n += 1;
    }
    add(run, from, n);
    found.into_iter().map(|(value, (n, first))| (value, n, first)).collect()
}

impl LabelFacts {
    /// Whether the values can be looked up in `table` and some of them have a class there.
    pub(super) fn has_class(&self, path: &Path, table: &Table) -> bool {
        let some = |pixels: [u64; 256]| pixels[..usize::from(IGNORE)].iter().any(|n| *n > 0);
        self.classes(path, table).is_ok_and(some)
    }

    /// Counts the pixels of each class by `table`, void pixels under [`IGNORE`].
    ///
    /// # Errors
    /// The error of [`read_label`] for this file.
    pub(super) fn classes(&self, path: &Path, table: &Table) -> Result<[u64; 256]> {
        let (colour, depth) = (ColorType::from_u8(self.colour), BitDepth::from_u8(self.depth));
        let (Some(colour), Some(depth)) = (colour, depth) else {
            return Err(damaged(path, "its header is malformed"));
        };
        accept(path, colour, depth, table)?;
        let coloured =
            depth == BitDepth::Eight && matches!(colour, ColorType::Rgb | ColorType::Rgba);
        let rgb = |value: u32| {
            let [_, r, g, b] = value.to_be_bytes();
            [r, g, b]
        };
        let class = |value: u32| match coloured {
            true => train_id_of_colour(rgb(value)).map(|id| table.grouped(id)),
            false => u16::try_from(value).ok().and_then(|value| table.class(value)),
        };
        let (mut counts, mut wrong) = ([0; 256], None);
        for &(value, n, first) in &self.values {
            match class(value) {
                Some(class) => counts[usize::from(class)] += n,
                None if wrong.is_none_or(|(_, other)| first < other) => {
                    wrong = Some((value, first));
                }
                None => {}
            }
        }
        match wrong {
            None => Ok(counts),
            Some((value, first)) if coloured => {
                Err(wrong_colour(path, self.w, first as usize, rgb(value)))
            }
            Some((value, first)) => {
                Err(wrong_value(path, table, self.w, first as usize, value as u16))
            }
        }
    }
}
