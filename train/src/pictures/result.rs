//! Pictures that `dressage predict` writes. They carry a mark: if they are stored next to other
//! pictures, the next call does not take them for its input.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Encoding, image_png, label_png, submission_png};
use crate::palette::Palette;
use crate::{Image, LabelMap, Result};

/// Suffixes of the names of results.
pub const RESULT_ENDS: [&str; 2] = ["_overlay.png", "_label.png"];

/// Keyword and text of the mark, as stored in the file.
pub(super) const MARK: [&str; 2] = ["Software", "dressage predict"];

/// Bytes that contain the mark: header, palette and mark take fewer.
const HEAD: u64 = 2048;

/// Paths of the overlay and the label of an image whose results begin with `stem`.
pub fn result_paths(stem: &Path) -> [PathBuf; 2] {
    RESULT_ENDS.map(|end| {
        let mut name = stem.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    })
}

/// Whether the file `path` is a result by its name and its mark.
pub fn is_result(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    RESULT_ENDS.iter().any(|end| name.ends_with(end.as_bytes())) && has_mark(path)
}

fn has_mark(path: &Path) -> bool {
    let mut head = Vec::new();
    if File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).is_err() {
        return false;
    }
    let mark = [b"tEXt", MARK[0].as_bytes(), b"\0", MARK[1].as_bytes()].concat();
    head.starts_with(b"\x89PNG") && head.windows(mark.len()).any(|part| part == mark)
}

/// Writes an overlay as [`write_image`](super::write_image) does, with the mark.
///
/// # Errors
/// As there.
pub fn write_result_image(path: &Path, image: &Image) -> Result<()> {
    image_png(path, image, Some(MARK))
}

/// Writes a prediction as [`write_label`](super::write_label) does, with the mark.
///
/// # Errors
/// As there.
pub fn write_result_label(path: &Path, label: &LabelMap, palette: &Palette) -> Result<()> {
    label_png(path, label, palette, Some(MARK))
}

/// Writes a prediction as [`write_submission`](super::write_submission) does, with the mark.
///
/// # Errors
/// As there.
pub fn write_result_submission(path: &Path, label: &LabelMap, encoding: Encoding) -> Result<()> {
    submission_png(path, label, encoding, Some(MARK))
}
