//! What every target checks: whatever the bytes, reading them ends, and if it is refused then in
//! one sentence that names the file.

use std::path::Path;

use dressage_engine::DType;
use dressage_models::weights::StateDict;

/// Name that errors have to show.
const PATH: &str = "/fuzzed/file";

/// Reads a file of weights and every tensor in it.
///
/// # Panics
/// If an error is no sentence, or a tensor does not hold what it says.
pub fn weights(bytes: &[u8]) {
    match StateDict::from_bytes(Path::new(PATH), bytes) {
        Err(error) => sentence(&error.to_string()),
        Ok(dict) => {
            if let Err(error) = dict.check() {
                sentence(&error.to_string());
            }
            for (name, stored) in dict.iter() {
                let float = stored.to_float(DType::F32).expect("bytes in memory");
                let whole = stored.to_integers().expect("bytes in memory");
                let found = float.map_or_else(|| whole.map_or(0, |v| v.len()), |t| t.len());
                assert_eq!(found, stored.len(), "{name:?}");
            }
        }
    }
}

/// Decodes a picture, and a label map through tables of all kinds.
///
/// # Panics
/// If an error is no sentence, or there are more or fewer pixels than the size says.
pub fn picture(bytes: &[u8]) {
    use dressage_train::data::{Ids, Table, decode_image, decode_label};
    match decode_image(Path::new(PATH), bytes) {
        Ok(image) => assert_eq!(image.data.len(), 3 * image.w * image.h),
        Err(error) => sentence(&error.to_string()),
    }
    for table in ["train_ids", "gtav", "synthia"] {
        let table = Table::new("set", &Ids::Named(table.into()), 19, None).expect("a known table");
        match decode_label(Path::new(PATH), bytes, &table) {
            Ok(label) => assert_eq!(label.data.len(), label.w * label.h),
            Err(error) => sentence(&error.to_string()),
        }
    }
}

fn sentence(text: &str) {
    assert!(text.contains(PATH), "{text:?} does not name the file");
    assert!(!text.chars().any(char::is_control), "{text:?} is more than a line");
    assert!(text.chars().count() < 500, "{text:?} is more than a sentence");
}
