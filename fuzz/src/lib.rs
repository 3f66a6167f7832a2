//! Checks of all targets: reading any bytes ends, and a refusal is one sentence. The error of a
//! file names the file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use dressage_engine::DType;
use dressage_models::weights::StateDict;
use dressage_train::network;
use dressage_train::recipe::Recipe;

/// File name that errors have to contain.
const PATH: &str = "/fuzzed/file";

/// Reads a file of weights and every tensor in it.
///
/// # Panics
/// If an error is no sentence, or a tensor does not contain what it states.
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

/// Decodes an image, and a label map with all kinds of tables.
///
/// # Panics
/// If an error is no sentence, or the number of pixels differs from the size.
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

/// Resolves a recipe: text, and after a line `---` overrides, one per line.
///
/// # Panics
/// If an error is no sentence, or an accepted recipe changes when it is written and read.
pub fn recipe(bytes: &[u8]) {
    // Bytes that are not UTF-8 are refused when the file is read.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, overrides) = text.split_once("\n---\n").unwrap_or((text, ""));
    let overrides: Vec<String> = overrides.lines().map(str::to_owned).collect();
    match Recipe::from_text(Path::new(PATH), text, &overrides) {
        Err(error) => line(&error.to_string()),
        Ok(recipe) => usable(&recipe),
    }
}

/// Checks that an accepted recipe survives writing and reading, and that its schedule, crops and
/// sizes are valid.
fn usable(recipe: &Recipe) {
    let text = recipe.to_toml().expect("a recipe is written");
    let again = Recipe::from_text(Path::new(PATH), &text, &[]).expect("and read again");
    assert!(again == *recipe, "another recipe is read from {text}");
    let schedule = recipe.schedule().expect("the schedule was checked");
    for step in [0, recipe.train.warm_up_steps, recipe.train.steps - 1] {
        assert!(schedule.lr(step) >= 0.0, "rate of step {step} of {text}");
    }
    recipe.augment.pipeline().check().expect("the crops were checked");
    network::config(recipe).expect("the sizes were checked");
    let sets = recipe.data.train.iter().chain(recipe.data.eval.iter().map(|eval| &eval.set));
    for set in sets {
        let spec = recipe.data.spec(set, &recipe.head.classes);
        assert!((1..=255).contains(&spec.classes), "{} classes of {text}", spec.classes);
    }
}

/// Parses a command line, one word per line, and checks it before any work.
///
/// # Panics
/// If an error is no sentence.
pub fn command_line(bytes: &[u8]) {
    if bytes.contains(&0) {
        return;
    }
    let words = bytes.split(|b| *b == b'\n').map(|word| OsStr::from_bytes(word).to_owned());
    let program = std::iter::once(OsString::from("dressage"));
    match <dressage::Cli as clap::Parser>::try_parse_from(program.chain(words)) {
        Err(usage) => assert!(!usage.to_string().is_empty()),
        Ok(cli) => {
            if let Err(failure) = cli.check() {
                let text = failure.line();
                assert!(!text.chars().any(char::is_control), "{text:?} is more than a line");
                // Errors contain file names as given, and every byte may be escaped.
                let most = 500 + 10 * bytes.len();
                assert!(text.chars().count() < most, "{text:?} is more than a sentence");
            }
        }
    }
}

fn sentence(text: &str) {
    assert!(text.contains(PATH), "{text:?} does not name the file");
    line(text);
}

fn line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?} is more than a line");
    assert!(text.chars().count() < 500, "{text:?} is more than a sentence");
}
