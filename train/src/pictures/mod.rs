//! Results to look at: coloured labels, overlays, label files, contact sheets.

mod font;
mod result;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::Path;

pub(crate) use font::text_width;
pub use font::{GLYPH_H, GLYPH_W, text};
pub use result::{
    RESULT_ENDS, is_result, result_paths, write_result_image, write_result_label,
    write_result_submission,
};
pub use sheet::{Sheet, SheetRow};

use crate::palette::{Palette, id_of_train_id};
use crate::{IGNORE, Image, LabelMap, Result, TrainError, files};

/// Paints each pixel in the colour of its class.
pub fn colourise(label: &LabelMap, palette: &Palette) -> Image {
    let data = label.data.iter().flat_map(|&class| palette.colour(class)).collect();
    Image { w: label.w, h: label.h, data }
}

/// Blends the class colours over `image`: `alpha` 0 shows the image, 1 the classes. Pixels without
/// a class stay unchanged. If the sizes differ, the common part is blended.
pub fn overlay(image: &Image, label: &LabelMap, palette: &Palette, alpha: f32) -> Image {
    let mut out = image.clone();
    for y in 0..image.h.min(label.h) {
        for x in 0..image.w.min(label.w) {
            let class = label.data[y * label.w + x];
            if class == IGNORE {
                continue;
            }
            let (below, above) = (image.pixel(x, y), palette.colour(class));
            let blend = |c: usize| {
                let (a, b) = (f32::from(below[c]), f32::from(above[c]));
                (a + (b - a) * alpha + 0.5) as u8
            };
            out.set_pixel(x, y, [blend(0), blend(1), blend(2)]);
        }
    }
    out
}

/// Numbers stored in a label file; the servers differ (spec training-and-data §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// TrainIds 0 to 18 and 255: ACDC, and what this crate reads by default.
    TrainIds,
    /// Cityscapes ids (7 road, ..., 33 bicycle, 0 for none): the Cityscapes server.
    CityscapesIds,
}

/// Writes `label` as 8-bit numbers without a palette, as the servers require.
///
/// # Errors
/// A file that cannot be written.
pub fn write_submission(path: &Path, label: &LabelMap, encoding: Encoding) -> Result<()> {
    submission_png(path, label, encoding, None)
}

fn submission_png(
    path: &Path,
    label: &LabelMap,
    encoding: Encoding,
    text: Option<[&str; 2]>,
) -> Result<()> {
    let data = match encoding {
        Encoding::TrainIds => label.data.clone(),
        Encoding::CityscapesIds => label.data.iter().map(|&c| id_of_train_id(c)).collect(),
    };
    write_png(path, label.w, label.h, png::ColorType::Grayscale, None, text, &data)
}

/// Writes `label` as an 8-bit palette PNG: the index is the class, the palette shows its colour.
///
/// # Errors
/// A file that cannot be written.
pub fn write_label(path: &Path, label: &LabelMap, palette: &Palette) -> Result<()> {
    label_png(path, label, palette, None)
}

fn label_png(
    path: &Path,
    label: &LabelMap,
    palette: &Palette,
    text: Option<[&str; 2]>,
) -> Result<()> {
    let colours = (0..=255).flat_map(|class| palette.colour(class)).collect();
    write_png(path, label.w, label.h, png::ColorType::Indexed, Some(colours), text, &label.data)
}

/// Writes `image` as an RGB PNG.
///
/// # Errors
/// A file that cannot be written.
pub fn write_image(path: &Path, image: &Image) -> Result<()> {
    image_png(path, image, None)
}

fn image_png(path: &Path, image: &Image, text: Option<[&str; 2]>) -> Result<()> {
    write_png(path, image.w, image.h, png::ColorType::Rgb, None, text, &image.data)
}

/// Writes a PNG, whole or not at all. `text` is a keyword and its text.
fn write_png(
    path: &Path,
    w: usize,
    h: usize,
    colour: png::ColorType,
    palette: Option<Vec<u8>>,
    text: Option<[&str; 2]>,
    data: &[u8],
) -> Result<()> {
    let fail = |source| TrainError::Write { path: path.into(), source };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, w as u32, h as u32);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    let other = |error: png::EncodingError| fail(std::io::Error::other(error));
    if let Some([keyword, text]) = text {
        encoder.add_text_chunk(keyword.to_owned(), text.to_owned()).map_err(other)?;
    }
    let mut writer = encoder.write_header().map_err(other)?;
    writer.write_image_data(data).map_err(other)?;
    writer.finish().map_err(other)?;
    Ok(files::write_bytes(path, &bytes)?)
}
