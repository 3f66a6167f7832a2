//! Weights in several files: shards with an index, and folders in the hub's layout.
//!
//! An index names the shard of every tensor. It is read as a list of names. A name that is not a
//! plain file name in the folder of the index is refused, so no file outside of this folder is
//! opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::container::{Contents, Fault, FileResult, dictionary, map, read};
use super::hub::Declared;
use super::{StateDict, shown};
use crate::{ModelError, Result};

/// Maximum number of shards of an index; the largest networks have a few hundred.
const FILES: usize = 4096;

/// Maximum length of an index in bytes.
const LARGEST: usize = 64 << 20;

/// Index of shards: the file of each tensor.
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    files: Vec<String>,
    /// Names of tensors, sorted, with the index of their file in `files`.
    tensors: Vec<(String, usize)>,
}

/// The pairs of a JSON object in order, including repeated names.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Pairs, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("names of tensors with the names of their files")
            }

            fn visit_map<M: MapAccess<'de>>(
                self,
                mut map: M,
            ) -> std::result::Result<Pairs, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[derive(Deserialize)]
struct Raw {
    weight_map: Option<Pairs>,
}

impl Index {
    /// Reads the text of an index.
    pub fn parse(text: &[u8]) -> FileResult<Index> {
        if text.len() > LARGEST {
            return Err(
                format!("is not an index of shards: it is longer than {LARGEST} bytes").into()
            );
        }
        let raw: Raw = serde_json::from_slice(text).map_err(|e| {
            let cause = shown(&e.to_string());
            let cause = format!("is JSON, but not an index with a weight_map of shards ({cause})");
            // A complete file of another format would be the same after a new download.
            Fault { cause, damaged: !e.is_data() }
        })?;
        let Some(Pairs(mut pairs)) = raw.weight_map else {
            let what = "is JSON, but not an index with a weight_map of shards; name its folder, or \
                        the file of weights";
            return Err(what.into());
        };
        pairs.sort();
        if pairs.is_empty() {
            return Err("is an index that names no tensor".into());
        }
        if let Some(twice) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(format!("names the tensor {} twice", shown(&twice[0].0)).into());
        }
        let files: BTreeSet<&String> = pairs.iter().map(|(_, file)| file).collect();
        if let Some(file) = files.iter().find(|file| !is_plain(file)) {
            let file = shown(file);
            return Err(format!("names {file}, which is not a file in the same folder").into());
        }
        if files.len() > FILES {
            return Err(format!("names {} files, more than {FILES}", files.len()).into());
        }
        let files: Vec<String> = files.into_iter().cloned().collect();
        let place = |file: &String| files.binary_search(file).unwrap_or_default();
        let tensors = pairs.iter().map(|(name, file)| (name.clone(), place(file))).collect();
        Ok(Index { files, tensors })
    }

    /// Names of the shards, sorted.
    pub fn files(&self) -> &[String] {
        &self.files
    }
}

/// Whether a name is a plain file name and not a path.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    one && name.len() <= 255 && !name.contains(['/', '\\', '\0'])
}

/// Part and number of parts from a name such as `model-00001-of-00002.safetensors`.
pub fn part_of(name: &str) -> Option<(usize, usize)> {
    let (stem, _) = name.rsplit_once('.')?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let plain = digits.len() >= 3 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|n| plain && *n > 0)
    };
    Some((number(part)?, number(of)?)).filter(|(part, of)| part <= of)
}

/// Refuses a file whose name shows that it is one of several shards.
///
/// # Errors
/// [`ModelError::Read`] that names the index next to it, or the folder if there is no index.
pub fn refuse_part(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((part, of)) = part_of(&name).filter(|(_, of)| *of > 1 && path.is_file()) else {
        return Ok(());
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let whole = |(stem, ending): (&str, &str)| {
        let stem = stem.rsplit_once("-of-")?.0.rsplit_once('-')?.0;
        Some(folder.join(format!("{stem}.{ending}.index.json")))
    };
    let index = name.rsplit_once('.').and_then(whole).filter(|index| index.is_file());
    let instead = match index {
        Some(index) => format!("the index of all, {}", index.display()),
        None => format!("the folder of all, {}", folder.display()),
    };
    Err(Fault::from(format!("is part {part} of {of} of the weights; name {instead}")).of(path))
}

/// Opens the shards of the index at `path`.
pub(crate) fn open_index(path: &Path, index: Index) -> Result<StateDict> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut whole: Option<Contents> = None;
    let mut paths = Vec::new();
    let mut wanted = vec![BTreeSet::new(); index.files.len()];
    for (name, at) in &index.tensors {
        wanted[*at].insert(name.as_str());
    }
    for (i, (file, wanted)) in index.files.iter().zip(wanted).enumerate() {
        let shard = folder.join(file);
        let mut contents = match fs::metadata(&shard) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (part, n) = (i + 1, index.files.len());
                let what = format!("names {}, part {part} of {n}, which is missing", shown(file));
                return Err(Fault::damaged(what).of(path));
            }
            _ => one(&shard)?,
        };
        if let Some(name) = wanted.iter().find(|name| !contents.tensors.contains_key(**name)) {
            let (name, file) = (shown(name), shown(file));
            let what = format!("says that {file} holds {name}, which it does not");
            return Err(Fault::damaged(what).of(path));
        }
        contents.tensors.retain(|name, _| wanted.contains(name.as_str()));
        add(&mut whole, contents);
        paths.push(shard);
    }
    finish(whole, path, folder, paths)
}

/// Opens the weights in a folder: the file that the hub's libraries would use, or the only one.
pub fn open(folder: &Path) -> Result<StateDict> {
    let names = names(folder)?;
    for usual in ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"] {
        if names.contains(usual) {
            return of_file(folder, usual);
        }
    }
    let ending = |ending: &'static str| {
        names.iter().filter(move |n| n.ends_with(ending)).map(String::as_str).collect::<Vec<_>>()
    };
    for (found, what) in [
        (ending(".safetensors.index.json"), "indexes"),
        (ending(".index.json"), "indexes"),
        (ending(".safetensors"), "files of weights"),
        (
            [".bin", ".pth", ".pt", ".ckpt"].into_iter().flat_map(ending).collect(),
            "files of weights",
        ),
    ] {
        match found.as_slice() {
            [] => {}
            [only] => return of_file(folder, only),
            several => match complete(folder, several) {
                Some(parts) => return open_parts(folder, &parts?),
                None => {
                    let list = super::wrappers::first_of(
                        several.iter().map(|n| n.to_string()),
                        several.len(),
                    );
                    return Err(
                        Fault::from(format!("holds several {what}: {list}; name one")).of(folder)
                    );
                }
            },
        }
    }
    let what = "is a folder without a file of weights (safetensors, .bin, .pth, .pt)";
    Err(Fault::from(what).of(folder))
}

/// Names of the files in a folder, without hidden ones and those that are not UTF-8.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let fail = |e: io::Error| Fault::from(format!("cannot read the folder: {e}")).of(folder);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().into_string();
        let visible = name.ok().filter(|name| !name.starts_with('.'));
        names.extend(visible.filter(|name| folder.join(name).is_file()));
    }
    Ok(names)
}

/// Opens a folder's weights from their only file, or from the index of several.
fn of_file(folder: &Path, name: &str) -> Result<StateDict> {
    let path = folder.join(name);
    if name.ends_with(".json") {
        return super::container::open(&path);
    }
    if let Some((part, of)) = part_of(name).filter(|(_, of)| *of > 1) {
        let what = format!("holds part {part} of {of} ({name}), the others are missing");
        return Err(Fault::damaged(what).of(folder));
    }
    finish(Some(one(&path)?), folder, folder, vec![path])
}

/// The parts of one set of weights; `None` if the files are not parts, an error if one is missing.
fn complete(folder: &Path, names: &[&str]) -> Option<Result<Vec<String>>> {
    let mut parts = BTreeMap::new();
    let mut number = None;
    for name in names {
        let (part, of) = part_of(name)?;
        if number.is_some_and(|n| n != of) || parts.insert(part, name.to_string()).is_some() {
            return None;
        }
        number = Some(of);
    }
    let of = number?;
    if let Some(missing) = (1..=of).find(|part| !parts.contains_key(part)) {
        let have = parts.into_values().next().unwrap_or_default();
        let cause = format!("part {missing} of {of} is missing in its folder");
        return Some(Err(Fault::damaged(cause).of(&folder.join(have))));
    }
    Some(Ok(parts.into_values().collect()))
}

/// Opens all shards of a folder without an index.
fn open_parts(folder: &Path, names: &[String]) -> Result<StateDict> {
    let mut whole: Option<Contents> = None;
    let mut paths = Vec::new();
    for name in names {
        let path = folder.join(name);
        let contents = one(&path)?;
        let both =
            |w: &Contents| contents.tensors.keys().find(|n| w.tensors.contains_key(*n)).cloned();
        if let Some(twice) = whole.as_ref().and_then(both) {
            let what = format!("holds {}, which another part holds too", shown(&twice));
            return Err(Fault::damaged(what).of(&path));
        }
        add(&mut whole, contents);
        paths.push(path);
    }
    finish(whole, folder, folder, paths)
}

fn one(path: &Path) -> Result<Contents> {
    read(&map(path)?).map_err(|fault| fault.of(path))
}

fn add(whole: &mut Option<Contents>, part: Contents) {
    match whole {
        None => *whole = Some(part),
        Some(whole) => {
            whole.tensors.extend(part.tensors);
            whole.metadata.extend(part.metadata);
        }
    }
}

/// Makes the dictionary of all parts and compares its sizes with the folder's configuration.
fn finish(
    whole: Option<Contents>,
    path: &Path,
    folder: &Path,
    paths: Vec<PathBuf>,
) -> Result<StateDict> {
    let empty = || -> ModelError { Fault::from("names no file").of(path) };
    let mut dict = dictionary(whole.ok_or_else(empty)?, path, paths)?;
    dict.declared = Declared::of_folder(folder)?;
    if let Some(declared) = &dict.declared {
        declared.holds_for(&dict, folder)?;
    }
    Ok(dict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_lists_of_plain_names() {
        let text = br#"{"metadata": {"total_size": 8}, "weight_map": {"b": "2.st", "a": "1.st", "c": "1.st"}}"#;
        let index = Index::parse(text).expect("index");
        assert_eq!(index.files(), ["1.st", "2.st"]);
        assert_eq!(index.tensors, [("a".into(), 0), ("b".into(), 1), ("c".into(), 0)]);
        for (map, word) in [
            (r#"{"a": "../x.safetensors"}"#, "not a file in the same folder"),
            (r#"{"a": "/etc/passwd"}"#, "not a file in the same folder"),
            (r#"{"a": "sub/x"}"#, "not a file in the same folder"),
            (r#"{"a": "..\\x"}"#, "not a file in the same folder"),
            (r#"{"a": ".."}"#, "not a file in the same folder"),
            (r#"{"a": ""}"#, "not a file in the same folder"),
            (r#"{"a": "x\u0000"}"#, "not a file in the same folder"),
            (r#"{"a": "x", "a": "y"}"#, "the tensor a twice"),
            (r#"{"a": "x", "a": "x"}"#, "the tensor a twice"),
            (r#"{"a": 3}"#, "not an index with a weight_map"),
            (r#"["a"]"#, "not an index with a weight_map"),
            ("{}", "names no tensor"),
            ("null", "name its folder"),
        ] {
            let text = format!("{{\"weight_map\": {map}}}");
            let fault = Index::parse(text.as_bytes()).expect_err(map);
            assert!(fault.cause.contains(word), "{map}: {fault:?}");
        }
        assert!(Index::parse(b"{\"weight_map\"").expect_err("cut").damaged);
        let many: Vec<String> = (0..=FILES).map(|i| format!("\"t{i}\": \"f{i}\"")).collect();
        let text = format!("{{\"weight_map\": {{{}}}}}", many.join(", "));
        let fault = Index::parse(text.as_bytes()).expect_err("too many");
        assert!(fault.cause.contains("4097 files, more than 4096"), "{fault:?}");
    }

    #[test]
    fn parts_are_recognised_by_their_names() {
        assert_eq!(part_of("model-00001-of-00002.safetensors"), Some((1, 2)));
        assert_eq!(part_of("pytorch_model-00003-of-00003.bin"), Some((3, 3)));
        for name in [
            "model.safetensors",
            "a-1-of-2.bin",
            "a-00003-of-00002.bin",
            "a-00000-of-00002.bin",
            "of-00002.bin",
        ] {
            assert_eq!(part_of(name), None, "{name}");
        }
    }
}
