//! Whatever is wrong with files, recipes or numbers: one sentence that names the culprit, and
//! nothing lost.

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

/// The text of an error; it must be one sentence and hold all of `words`.
#[track_caller]
fn told<T, E: Display>(result: Result<T, E>, words: &[&str]) -> String {
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
