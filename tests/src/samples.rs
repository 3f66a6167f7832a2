//! Small intact files of every format that is read from outside; damaged files are made from them.

use std::io::{self, Cursor};

use image::{DynamicImage, ImageFormat};

use crate::checkpoint::{self, Entry, Out, ScalarType};

/// Format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// A zip archive of `torch.save`.
    Zip,
    /// The earlier format of `torch.save`.
    Legacy,
    /// An archive of `torch.jit.save`.
    TorchScript,
    /// JSON header and data.
    Safetensors,
    /// A picture or label map.
    Png,
    /// A picture.
    Jpeg,
}

/// All formats.
pub const FORMS: [Form; 6] =
    [Form::Zip, Form::Legacy, Form::TorchScript, Form::Safetensors, Form::Png, Form::Jpeg];

impl Form {
    /// Whether it is a checkpoint; otherwise it is a picture.
    pub fn is_checkpoint(self) -> bool {
        !matches!(self, Form::Png | Form::Jpeg)
    }

    /// The usual extension of a file name.
    pub fn ending(self) -> &'static str {
        match self {
            Form::Zip | Form::Legacy => "pth",
            Form::TorchScript => "pt",
            Form::Safetensors => "safetensors",
            Form::Png => "png",
            Form::Jpeg => "jpg",
        }
    }
}

/// An intact file.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its name, one word.
    pub name: &'static str,
    /// Its format.
    pub form: Form,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Tensors of every kind that the formats support: maps, vectors, a scalar, an empty one.
pub fn entries() -> Vec<Entry> {
    let counting = |n: u64| (0..n).map(|i| (i * 37 % 251) as u8).collect::<Vec<u8>>();
    let entry = |name: &str, kind: ScalarType, shape: &[u64]| {
        let n = shape.iter().product::<u64>() * kind.size();
        Entry::bytes(name, kind, shape, counting(n))
    };
    vec![
        entry("cls_token", ScalarType::F32, &[1, 1, 8]),
        entry("patch_embed.proj.weight", ScalarType::F32, &[4, 3, 2, 2]),
        entry("blocks.0.attn.qkv.weight", ScalarType::F16, &[12, 4]),
        entry("blocks.0.attn.qkv.bias", ScalarType::Bf16, &[12]),
        entry("blocks.0.norm1.weight", ScalarType::F64, &[4]),
        entry("bn.num_batches_tracked", ScalarType::I64, &[]),
        entry("index", ScalarType::I32, &[5]),
        entry("mask", ScalarType::U8, &[3, 3]),
        Entry::bytes("flags", ScalarType::Bool, &[2], vec![1, 0]),
        entry("nothing", ScalarType::F32, &[0, 4]),
    ]
}

/// Returns the bytes that a writer writes.
///
/// # Errors
/// Errors of the writer.
pub fn written(write: impl FnOnce(&mut dyn Out) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    write(&mut out)?;
    Ok(out.into_inner())
}

/// A picture with transparency whose neighbouring pixels differ.
fn picture(w: u32, h: u32) -> DynamicImage {
    let pixel = |x: u32, y: u32| {
        image::Rgba([(7 * x + y) as u8, (x * y) as u8, (3 * y) as u8, 255 - x as u8])
    };
    DynamicImage::ImageRgba8(image::RgbaImage::from_fn(w, h, pixel))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> io::Result<Vec<u8>> {
    written(|out| picture.write_to(out, format).map_err(io::Error::other))
}

/// A map of 16x16 classes, `depth` bits each, with a palette or grey.
fn labels(depth: png::BitDepth, palette: bool) -> io::Result<Vec<u8>> {
    let line = 2 * depth as usize;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 16, 16);
    encoder.set_depth(depth);
    encoder.set_color(png::ColorType::Grayscale);
    if palette {
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette((0..48).map(|i| 5 * i).collect::<Vec<u8>>());
    }
    let data: Vec<u8> = (0..16 * line).map(|i| (i % 3) as u8).collect();
    let mut writer = encoder.write_header().map_err(io::Error::other)?;
    writer.write_image_data(&data).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)?;
    Ok(bytes)
}

/// One or more intact files of each format.
///
/// # Errors
/// Never, unless an encoder fails.
pub fn all() -> io::Result<Vec<Sample>> {
    let entries = entries();
    let sample =
        |name, form, bytes: io::Result<Vec<u8>>| bytes.map(|bytes| Sample { name, form, bytes });
    let grey = DynamicImage::from(picture(17, 9).to_luma8());
    let wide = DynamicImage::from(picture(9, 5).to_rgb16());
    let rgb = DynamicImage::from(picture(33, 18).to_rgb8());
    [
        sample("zip", Form::Zip, written(|out| checkpoint::zip(out, &entries, ""))),
        sample("zip-wrapped", Form::Zip, written(|out| checkpoint::zip(out, &entries, "model"))),
        sample("zip-unsummed", Form::Zip, written(|out| checkpoint::zip_unsummed(out, &entries))),
        sample("legacy", Form::Legacy, written(|out| checkpoint::legacy(out, &entries, ""))),
        sample(
            "legacy-wrapped",
            Form::Legacy,
            written(|out| checkpoint::legacy(out, &entries, "state_dict")),
        ),
        sample(
            "torchscript",
            Form::TorchScript,
            written(|out| checkpoint::torchscript(out, &entries)),
        ),
        sample(
            "safetensors",
            Form::Safetensors,
            written(|out| checkpoint::safetensors(out, &entries)),
        ),
        sample("rgba", Form::Png, encoded(&picture(21, 13), ImageFormat::Png)),
        sample("rgb16", Form::Png, encoded(&wide, ImageFormat::Png)),
        sample("label-palette", Form::Png, labels(png::BitDepth::Four, true)),
        sample("label-grey", Form::Png, labels(png::BitDepth::Eight, false)),
        sample("rgb", Form::Jpeg, encoded(&rgb, ImageFormat::Jpeg)),
        sample("grey", Form::Jpeg, encoded(&grey, ImageFormat::Jpeg)),
    ]
    .into_iter()
    .collect()
}
