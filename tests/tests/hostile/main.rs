//! Files made to do harm: damaged, cut short, with false sizes, naming code to run.
//!
//! Each is read like a user's file. It must never crash the program and never take more memory than
//! [`memory::allowed`] says. It must either load or end in one sentence that names the file. All
//! files are generated, the same in every run.

mod archives;
mod damage;
mod headers;
mod indexes;
mod memory;
mod pickles;
mod pictures;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dressage_engine::DType;
use dressage_models::weights::{StateDict, Stored};
use dressage_tests::samples::{self, Form};
use dressage_train::data::{Ids, Table, read_image, read_label};

/// Expected result of reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// It loads.
    Loads,
    /// It is rejected.
    Refused,
    /// Either: a flipped bit may hit a weight.
    Either,
}

/// A file of the corpus.
struct Case {
    form: Form,
    name: String,
    bytes: Vec<u8>,
    expect: Expect,
}

impl Case {
    fn new(form: Form, name: impl Into<String>, bytes: Vec<u8>, expect: Expect) -> Case {
        Case { form, name: name.into(), bytes, expect }
    }
}

/// The whole corpus.
fn corpus() -> Vec<Case> {
    let mut cases = damage::cases();
    cases.extend(archives::cases());
    cases.extend(pickles::cases());
    cases.extend(tensors::cases());
    cases.extend(headers::cases());
    cases.extend(pictures::cases());
    cases
}

/// Reads a file like the program; the tensors of a checkpoint are widened one by one.
fn read(form: Form, path: &Path) -> (Result<(), String>, usize) {
    if form.is_checkpoint() {
        memory::begin();
        let dict = StateDict::open(path).map_err(|e| e.to_string());
        let taken = memory::taken();
        let checked = |dict: StateDict| {
            touch(&dict, path);
            dict.check().map_err(|e| e.to_string())
        };
        return (dict.and_then(checked), taken);
    }
    memory::begin();
    let picture = read_image(path).map(|_| ()).map_err(|e| e.to_string());
    let mut taken = memory::taken();
    for table in ["train_ids", "gtav", "synthia"] {
        let table = Table::new("set", &Ids::Named(table.into()), 19, None).expect("table");
        memory::begin();
        if let Err(error) = read_label(path, &table) {
            sentence(&error.to_string(), path);
        }
        taken = taken.max(memory::taken());
    }
    (picture, taken)
}

/// Reads every tensor like a network.
fn touch(dict: &StateDict, path: &Path) {
    let file = fs::metadata(path).expect("file").len() as usize;
    for name in dict.names() {
        let stored = dict.get(name).expect("a name that was listed");
        let elements: usize = stored.shape().iter().product();
        memory::begin();
        let float = stored.to_float(DType::F32).expect("read");
        let (taken, allowed) = (memory::taken(), memory::widened(file));
        assert!(taken <= allowed, "{name}: widening took {taken} bytes of {allowed}");
        let Some(float) = float else { continue };
        assert_eq!((float.len(), float.shape()), (elements, stored.shape()), "{name}");
    }
}

/// Checks that an error is one line that names the file, without debug output of structures.
fn sentence(text: &str, path: &Path) {
    let path = path.to_str().expect("path");
    assert!(text.contains(path), "{text:?} does not name the file");
    let own = text.replace(path, "");
    assert!(!own.chars().any(char::is_control), "{text:?} is more than a line");
    assert!(own.chars().count() < 400, "{} characters: {text:?}", own.chars().count());
    let words: Vec<&str> = own.split_whitespace().collect();
    assert!(words.len() >= 3, "{text:?} is no sentence");
    for debug in ["Error(", "Error {", "Some(", "Err(", "{ ", "::", "Custom", "kind:"] {
        assert!(!own.contains(debug), "{text:?} is written for programmers");
    }
}

/// Result of a case that ended as expected.
struct Ended {
    refused: bool,
    /// Used fraction of the allowed memory.
    share: f64,
}

/// Reads a case; an error says what was wrong with the result.
fn tried(case: &Case, path: &Path) -> Result<Ended, String> {
    fs::write(path, &case.bytes).expect("written");
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let (result, taken) = read(case.form, path);
        if let Err(text) = &result {
            sentence(text, path);
        }
        (result, taken)
    }));
    let (result, taken) = ended.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| "it panicked".into())
    })?;
    let allowed = memory::allowed(case.form, &case.bytes);
    if taken > allowed {
        return Err(format!("took {taken} bytes of {allowed}; {result:?}"));
    }
    match (case.expect, &result) {
        (Expect::Loads, Err(text)) => Err(format!("was refused: {text}")),
        (Expect::Refused, Ok(())) => Err("was not refused".into()),
        _ => Ok(Ended { refused: result.is_err(), share: taken as f64 / allowed as f64 }),
    }
}

#[test]
fn hostile_files_end_in_one_sentence() {
    let _alone = memory::alone();
    let dir = tempfile::tempdir().expect("folder");
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("folder");
    let mut counts: BTreeMap<Form, (usize, usize, f64)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        let path = inner.join(format!("some.{}", case.form.ending()));
        let count = counts.entry(case.form).or_default();
        count.0 += 1;
        match tried(&case, &path) {
            Ok(ended) => {
                count.1 += usize::from(ended.refused);
                count.2 = count.2.max(ended.share);
            }
            Err(what) => wrong.push(format!("{:?} {}: {what}", case.form, case.name)),
        }
        fs::remove_file(&path).expect("removed");
    }
    for (form, (tried, refused, share)) in &counts {
        let share = 100.0 * share;
        println!(
            "{form:?}: {tried} files tried, {refused} refused, up to {share:.0} % of the memory \
             allowed"
        );
        assert!(*tried >= 200, "{form:?}: {tried}");
    }
    let count = wrong.len();
    // One of each kind: messages that differ only in numbers are dropped.
    let mut seen = BTreeSet::new();
    wrong.retain(|what| seen.insert(what.replace(|c: char| c.is_ascii_digit(), "")));
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{count} of the files: {wrong:#?}");
    // Nothing was unpacked, nothing was run.
    let left = |dir: &Path| fs::read_dir(dir).expect("folder").count();
    assert_eq!((left(dir.path()), left(&inner)), (1, 0));
    assert!(!pickles::trace().exists(), "a file made a command run");
}

#[test]
fn bytes_in_memory_are_read_as_files_are() {
    let _alone = memory::alone();
    let dir = tempfile::tempdir().expect("folder");
    for sample in samples::all().expect("samples") {
        if !sample.form.is_checkpoint() {
            continue;
        }
        let path = dir.path().join(sample.name);
        fs::write(&path, &sample.bytes).expect("written");
        let read = |dict: StateDict| -> Vec<String> {
            let values = |t: &Stored| {
                let floats = t.to_float(DType::F64).expect("read").map(|t| t.bytes().to_vec());
                format!("{:?} {:?} {floats:?} {:?}", t.kind(), t.shape(), t.to_integers())
            };
            dict.iter().map(|(name, t)| format!("{name} {}", values(t))).collect()
        };
        let [file, bytes] = [StateDict::open(&path), StateDict::from_bytes(&path, &sample.bytes)];
        let (file, bytes) = (read(file.expect("read")), read(bytes.expect("read")));
        assert_eq!(file, bytes, "{}", sample.name);
        assert_eq!(file.len(), samples::entries().len(), "{}", sample.name);
    }
}
