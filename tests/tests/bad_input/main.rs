//! Bad files, recipes or values: the error is one sentence that names the cause, and nothing is
//! lost.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod data;
mod files;
mod memory;
mod recipes;
mod resumed;
mod runs;
mod weights;

use std::fmt::Display;
use std::path::Path;

/// Returns the text of an error, which must be one sentence with all of `words`.
#[track_caller]
fn fails_with<T, E: Display>(result: Result<T, E>, words: &[&str]) -> String {
    let Err(error) = result else { panic!("this should have been refused: {words:?}") };
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text:?} is more than a sentence");
    for word in words {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
    text
}

/// Names of the files in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("folder");
    let name = |e: std::io::Result<std::fs::DirEntry>| e.expect("entry").file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}
