//! Collection of the images to segment, and the names of their results.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use dressage_train::TrainError;
use dressage_train::data::{WalkResult, walk};
use dressage_train::pictures::{is_result, result_paths};
use glob::{MatchOptions, Pattern};

use crate::failure::Failure;

/// File name extensions of images that are read.
const READ: [&str; 5] = ["png", "jpg", "jpeg", "jpe", "jfif"];

/// File name extensions of images that are not read.
const OTHER: [&str; 16] = [
    "webp", "bmp", "tif", "tiff", "gif", "heic", "heif", "avif", "jxl", "jp2", "psd", "ico", "ppm",
    "pgm", "svg", "exr",
];

/// An image to segment.
pub struct Input {
    /// Its file.
    pub file: PathBuf,
    /// Path of the results without suffix and extension.
    pub stem: PathBuf,
}

/// Inputs that the arguments of the command name.
#[derive(Default)]
pub struct Inputs {
    /// Images without duplicates, sorted by the names of their results.
    pub files: Vec<Input>,
    /// Inputs that cannot be segmented, one sentence each.
    pub failed: Vec<String>,
    /// Notes about skipped entries.
    pub notes: Vec<String>,
}

/// Collects the images that `inputs` name: files, folders or patterns. Results go below `out`.
pub fn collect(inputs: &[PathBuf], out: &Path) -> Result<Inputs, Failure> {
    let mut all = Inputs::default();
    // Path of the results below `out`, with the extension of the image's name, and the image.
    let mut named = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |below: PathBuf, file: PathBuf| {
        let real = file.canonicalize().unwrap_or_else(|_| file.clone());
        if seen.insert(real) {
            named.push((below, file));
        }
    };
    for input in inputs {
        match input.metadata() {
            Ok(meta) if meta.is_dir() => {
                let found = walk(input, usize::MAX, &|path| has_end(path, &READ, &OTHER));
                let files = all.take(found);
                if files.is_empty() {
                    all.failed.push(format!("{} {NOTHING}", input.display()));
                }
                for file in files {
                    let below = file.strip_prefix(input).unwrap_or(&file);
                    add(below.to_owned(), file);
                }
            }
            Ok(_) => {
                let name = input.file_name().map(PathBuf::from).unwrap_or_default();
                add(name, input.clone());
            }
            Err(source) => match input.to_str().filter(|text| text.contains(['*', '?', '['])) {
                Some(text) => {
                    let files = all.matches(text)?;
                    files.into_iter().for_each(|(below, file)| add(below, file));
                }
                None => {
                    let path = input.clone();
                    all.failed.push(TrainError::Read { path, source }.to_string());
                }
            },
        }
    }
    all.name(named, out);
    Ok(all)
}

const NOTHING: &str = "holds no image (.png, .jpg, .jpeg, .jpe or .jfif)";

impl Inputs {
    /// Returns the images that a walk has found; notes what was skipped.
    fn take(&mut self, found: WalkResult) -> Vec<PathBuf> {
        self.notes.extend(found.passed_over().map(|what| format!("skipped {what}")));
        for (path, source) in found.unreadable {
            self.failed.push(TrainError::Read { path, source }.to_string());
        }
        let (files, other): (Vec<_>, Vec<_>) =
            found.files.into_iter().partition(|path| has_end(path, &READ, &[]));
        if let Some(first) = other.first() {
            self.notes.push(format!(
                "skipped {} images that are neither PNG nor JPEG, the first is {}",
                other.len(),
                first.display()
            ));
        }
        files
    }

    /// Returns the images that match a pattern, with their paths below the fixed folder of the
    /// pattern.
    fn matches(&mut self, text: &str) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
        let fail = |e: &dyn std::fmt::Display| Failure::Message(format!("pattern {text}: {e}"));
        let is_pattern = |part: &OsStr| {
            part.as_encoded_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
        };
        let parts: Vec<&OsStr> = Path::new(text).iter().collect();
        let fixed = parts.iter().position(|part| is_pattern(part)).unwrap_or(0);
        let folder: PathBuf = parts[..fixed].iter().collect();
        let pattern: PathBuf = parts[fixed..].iter().collect();
        let pattern = Pattern::new(&pattern.to_string_lossy()).map_err(|e| fail(&e))?;
        let depth = match pattern.as_str().contains("**") {
            true => usize::MAX,
            false => parts.len() - fixed,
        };
        let from = if fixed == 0 { Path::new(".") } else { &folder };
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let below = |path: &Path| path.strip_prefix(from).unwrap_or(path).to_owned();
        let found = walk(from, depth, &|path| {
            has_end(path, &READ, &[])
                && pattern.matches_with(&below(path).to_string_lossy(), options)
        });
        let files = self.take(found);
        if files.is_empty() {
            self.failed.push(format!("no image (.png, .jpg, .jpeg, .jpe or .jfif) matches {text}"));
        }
        Ok(files.into_iter().map(|file| (below(&file), folder.join(below(&file)))).collect())
    }

    /// Gives every image a name for its results. If names collide, they get the folders that
    /// distinguish the images and keep the extension of the image.
    fn name(&mut self, named: Vec<(PathBuf, PathBuf)>, out: &Path) {
        let named = distinguished(named);
        let mut stems: Vec<PathBuf> =
            named.iter().map(|(path, _)| path.with_extension("")).collect();
        loop {
            let users = counted(&stems);
            let meets = |k: &usize| users[stems[*k].as_path()] > 1 && stems[*k] != named[*k].0;
            let meeting: Vec<usize> = (0..stems.len()).filter(meets).collect();
            if meeting.is_empty() {
                break;
            }
            meeting.into_iter().for_each(|k| stems[k].clone_from(&named[k].0));
        }
        let mut files: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for (stem, (_, file)) in stems.into_iter().zip(named) {
            match files.entry(stem) {
                Entry::Vacant(free) => {
                    free.insert(file);
                }
                Entry::Occupied(other) => self.failed.push(format!(
                    "{}: its results would have the same names as those of {}; predict it \
                     separately, with another folder as --out",
                    file.display(),
                    other.get().display()
                )),
            }
        }
        for (stem, file) in files {
            let stem = out.join(stem);
            let foreign = |path: &PathBuf| path.is_file() && !is_result(path);
            match result_paths(&stem).into_iter().find(foreign) {
                Some(path) => self.failed.push(format!(
                    "{}: its result would replace {}, which dressage predict did not write; \
                     choose another folder with --out",
                    file.display(),
                    path.display()
                )),
                None => self.files.push(Input { file, stem }),
            }
        }
    }
}

/// Counts how often each of `paths` occurs.
fn counted(paths: &[PathBuf]) -> BTreeMap<&Path, usize> {
    let mut users = BTreeMap::new();
    paths.iter().for_each(|path| *users.entry(path.as_path()).or_default() += 1);
    users
}

/// Lengthens colliding names by the folders of their files, one by one from the last.
fn distinguished(mut named: Vec<(PathBuf, PathBuf)>) -> Vec<(PathBuf, PathBuf)> {
    let full: Vec<Vec<OsString>> = named.iter().map(|(_, file)| parts(file)).collect();
    loop {
        let names: Vec<PathBuf> = named.iter().map(|(name, _)| name.clone()).collect();
        let users = counted(&names);
        let mut longer = false;
        for ((name, _), full) in named.iter_mut().zip(&full) {
            let n = name.iter().count();
            if users[name.as_path()] > 1 && n < full.len() {
                *name = full[full.len() - n - 1..].iter().collect();
                longer = true;
            }
        }
        if !longer {
            return named;
        }
    }
}

/// Returns the components of the path of `file`, of its absolute path if it contains `..`.
fn parts(file: &Path) -> Vec<OsString> {
    let leaves = file.components().any(|part| part == Component::ParentDir);
    let file = match leaves {
        true => std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
        false => file.to_owned(),
    };
    let mut parts = Vec::new();
    for part in file.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts
}

fn has_end(path: &Path, some: &[&str], more: &[&str]) -> bool {
    let end = path.extension().unwrap_or_default().as_encoded_bytes();
    some.iter().chain(more).any(|known| end.eq_ignore_ascii_case(known.as_bytes()))
}
