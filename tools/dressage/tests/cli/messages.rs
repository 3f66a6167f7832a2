//! Check of advice in messages: every key and option that a message names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dressage_train::recipe::keys::KEYS;

use crate::common::{dressage, out};

/// Sections of a recipe; their keys are written with a dot.
const SECTIONS: [&str; 9] =
    ["model", "rein", "head", "loss", "data", "augment", "train", "eval", "run"];

/// Names that look like keys: files, and parts of a network in its own sources.
const OTHER: [&str; 15] = [
    "data.pkl",
    "eval.json",
    "head.deconv",
    "head.per_pixel",
    "head.pixel_decoder",
    "head.queries_and_memories",
    "head.layer",
    "head.prediction",
    "head.semfpn",
    "head.norm",
    "head.norm.bias",
    "head.norm.weight",
    "model.safetensors.index.json",
    "run.lock",
    "model.safetensors",
];

/// Returns the string literals of a Rust source, without its tests and comments.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let (mut texts, mut rest) = (Vec::new(), source);
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let behind = &rest[at..];
        if behind.starts_with("//") {
            rest = behind.find('\n').map_or("", |end| &behind[end..]);
        } else if let Some(inside) = behind.strip_prefix('"') {
            let (text, end) = literal(inside);
            texts.push(text);
            rest = &inside[end..];
        } else if behind.starts_with("'\"'") || behind.starts_with("'\\\"'") {
            rest = behind[1..].find('\'').map_or("", |end| &behind[end + 2..]);
        } else {
            rest = &behind[1..];
        }
    }
    texts
}

/// Parses a literal up to its end; returns its text as printed, and the position after it.
fn literal(source: &str) -> (String, usize) {
    let (mut text, mut chars) = (String::new(), source.char_indices().peekable());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, at + 1),
            '\\' => match chars.next() {
                Some((_, '\n')) => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some((_, 'n')) => text.push('\n'),
                Some((_, c)) => text.push(c),
                None => break,
            },
            c => text.push(c),
        }
    }
    (text, source.len())
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("sources") {
        let path = entry.expect("entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, all);
        } else if name.ends_with(".rs") && !name.contains("tests") {
            all.push(path);
        }
    }
}

/// Returns every message in the sources of the crates that know recipes, with its file.
fn messages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "../../train/src", "../../models/src"] {
        sources(&root.join(folder), &mut files);
    }
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("source");
        literals(&text).into_iter().map(move |text| (path.clone(), text)).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(read).collect()
}

/// Returns the words of `text` that are written as keys of a recipe, with positions as `[]`.
fn keys_in(text: &str) -> Vec<String> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.{}[]".contains(c);
    let words = text.split(|c: char| !part(c)).map(|word| word.trim_matches(['.', '[', ']']));
    let dotted = words.filter(|word| {
        word.split_once('.').is_some_and(|(section, rest)| {
            SECTIONS.contains(&section) && rest.starts_with(|c: char| c.is_ascii_lowercase())
        })
    });
    let key = |word: &str| {
        let mut key = String::new();
        for part in word.split('.').filter(|part| !part.is_empty()) {
            if part.starts_with('{') && key.ends_with("[]") {
                // A placeholder for any key of an entry.
                break;
            }
            if part == "[]" || part.starts_with('{') || part.bytes().all(|b| b.is_ascii_digit()) {
                key.push_str("[]");
            } else {
                let dot = if key.is_empty() { "" } else { "." };
                key.push_str(&format!("{dot}{part}"));
            }
        }
        key
    };
    dotted.map(key).collect()
}

fn is_key(key: &str) -> bool {
    let inside = |known: &str| {
        known.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    KEYS.iter().any(|known| inside(known.path)) || OTHER.contains(&key)
}

fn is_leaf(word: &str) -> bool {
    KEYS.iter().any(|key| key.path.rsplit('.').next() == Some(word))
}

#[test]
fn every_key_that_a_message_names_exists() {
    let mut named = 0;
    for (file, text) in messages() {
        for key in keys_in(&text) {
            assert!(is_key(&key), "{}: {key:?} is no key: {text:?}", file.display());
            named += 1;
        }
    }
    assert!(named > 60, "the sources name {named} keys");
    assert_eq!(
        keys_in("set data.train.0.ids=x or data.eval.{i}.box."),
        ["data.train[].ids", "data.eval[].box"]
    );
    assert!(!is_key("data.train[].ids") && is_key("data.eval[].box") && is_key("data.train"));
}

/// Returns the keys of data sets that a sentence names without their section: advice that cannot be
/// typed.
fn bare_leaves(text: &str) -> Vec<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || "_.{}[]".contains(c);
    let bare = |word: &&str| {
        let word = word.trim_matches('.');
        word.contains('_') && !word.contains('.') && is_leaf(word)
    };
    let words = text.split(|c: char| !part(c)).filter(bare);
    if text.contains(' ') { words.collect() } else { vec![] }
}

#[test]
fn errors_name_whole_keys() {
    let mut named = 0;
    for (file, text) in messages() {
        let of_data = file.ends_with("train/src/error.rs") || file.iter().any(|f| f == "data");
        if of_data {
            assert_eq!(bare_leaves(&text), [""; 0], "{}: {text:?}", file.display());
        }
        for (_, after) in
            text.match_indices("{key}.").map(|(at, found)| text.split_at(at + found.len()))
        {
            let leaf = after.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next();
            let leaf = leaf.filter(|leaf| !leaf.is_empty());
            if let Some(leaf) = leaf.filter(|_| of_data) {
                let key = format!("data.train[].{leaf}");
                assert!(is_key(&key), "{}: {key:?} is no key: {text:?}", file.display());
                named += 1;
            }
        }
    }
    assert!(named >= 5, "{named} keys of data sets");
    assert_eq!(bare_leaves("check `image_suffix` or id_map = \"x\""), ["image_suffix", "id_map"]);
    assert!(bare_leaves("set data.train.0.id_map or {key}.label_suffix.").is_empty());
}

/// Collects the options in the help of `command` and of its subcommands.
fn options(command: &[&str], all: &mut BTreeSet<String>) {
    let mut args = command.to_vec();
    args.push("--help");
    let help = out(&dressage(Path::new("."), &args));
    all.extend(options_in(&help));
    let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        let indented = line.strip_prefix("  ").filter(|line| !line.starts_with(' '));
        let name = indented.and_then(|line| line.split(' ').next()).unwrap_or("help");
        if name != "help" {
            options(&[command, &[name]].concat(), all);
        }
    }
}

fn options_in(text: &str) -> Vec<String> {
    let part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !part(c));
    let long = words.filter(|word| word.len() > 2 && word.starts_with("--"));
    long.filter(|word| !word[2..].starts_with('-')).map(|word| word.to_owned()).collect()
}

#[test]
fn every_option_that_a_message_names_exists() {
    let mut known = BTreeSet::new();
    options(&[], &mut known);
    // Peers of a benchmark take these, this program does not.
    known.extend(["--network", "--stages", "--bottlenecks"].map(str::to_owned));
    assert!(known.contains("--resume") && known.contains("--encoding"), "{known:?}");
    let mut named = 0;
    for (file, text) in messages() {
        for option in options_in(&text) {
            assert!(known.contains(&option), "{}: {option}: {text:?}", file.display());
            named += 1;
        }
    }
    assert!(named > 10, "{named} options");
}
