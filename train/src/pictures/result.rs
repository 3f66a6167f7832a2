//! Pictures that `dressage predict` writes, which carry a mark: where they lie beside other
//! pictures, the next call is not to take them for its input.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Encoding, image_png, label_png, submission_png};
use crate::palette::Palette;
use crate::{Image, LabelMap, Result};

/// Ends of the names of results.
pub const RESULT_ENDS: [&str; 2] = ["_overlay.png", "_label.png"];

/// Keyword and text of the mark, as they stand in the file.
pub(super) const MARK: [&str; 2] = ["Software", "dressage predict"];

/// Bytes in which the mark lies: header, palette and mark take fewer.
const HEAD: u64 = 2048;

/// The names of the overlay and of the label of an image whose results begin with `stem`.
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

/// [`write_image`](super::write_image) for an overlay.
///
/// # Errors
/// As there.
pub fn write_result_image(path: &Path, image: &Image) -> Result<()> {
    image_png(path, image, Some(MARK))
}

/// [`write_label`](super::write_label) for a prediction.
///
/// # Errors
/// As there.
pub fn write_result_label(path: &Path, label: &LabelMap, palette: &Palette) -> Result<()> {
    label_png(path, label, palette, Some(MARK))
}

/// [`write_submission`](super::write_submission) for a prediction.
///
/// # Errors
/// As there.
pub fn write_result_submission(path: &Path, label: &LabelMap, encoding: Encoding) -> Result<()> {
    submission_png(path, label, encoding, Some(MARK))
}
