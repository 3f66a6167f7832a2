//! Full-size files with exactly the published names and shapes: they load strictly, and a single
//! wrong tensor is named.
//!
//! The tensors are zeros, stored as holes in the files, so 1.2 GB take no disk space. Only the last
//! one is ones, since a file that ends in zeros is taken for a partial download. Names and shapes
//! are compared before values are read, so a rejected file costs little.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use dressage_engine::memory::{self, usage};
use dressage_engine::{DType, Tensor};
use dressage_models::Segmenter;
use dressage_models::weights::{StateDict, Stored};
use dressage_tests::checkpoint::{self, Content, Entry, Out, ScalarType};
use dressage_tests::published::recorded;
use dressage_train::machine::resident;
use dressage_train::recipe::Recipe;
use dressage_train::{Result, network};

/// Patches per side of the position table in `keys.json`: crops of 512 pixels, patches of 16.
const GRID: usize = 32;
const PATCH: usize = 16;

fn backbone() -> Vec<Entry> {
    recorded("DinoVisionTransformer-L").expect("names")
}

fn trained() -> Vec<Entry> {
    recorded("rein_and_head_checkpoint").expect("names")
}

type Writer = fn(&mut dyn Out, &[Entry]) -> io::Result<()>;

/// The formats of such published files, by extension. The legacy format of `.pth` is left out. Its
/// storages start at any byte and may have to be copied, which does not suit this test.
const WRITERS: [(&str, Writer); 4] = [
    ("safetensors", checkpoint::safetensors),
    ("pth", |out, entries| checkpoint::zip(out, entries, "")),
    ("wrapped.pth", |out, entries| checkpoint::zip(out, entries, "state_dict")),
    // Without checksums no values are read for a comparison, so many files can be loaded.
    ("unsummed.pth", checkpoint::zip_unsummed),
];

/// Lock under which tests that measure memory run alone.
static ALONE: RwLock<()> = RwLock::new(());

fn write(dir: &Path, name: &str, writer: Writer, entries: &[Entry]) -> PathBuf {
    let path = dir.join(name);
    let mut file = File::create(&path).expect("file");
    let mut entries = entries.to_vec();
    if let Some(last) =
        entries.last_mut().filter(|e| e.content == Content::Zeros && e.kind == ScalarType::F32)
    {
        let ones = 1f32.to_le_bytes().repeat(last.len() as usize);
        last.content = Content::Bytes(ones);
    }
    writer(&mut file, &entries).expect("written");
    path
}

/// Bytes taken from the system without idle buffers, which loading would use or give back.
fn held() -> usize {
    memory::trim();
    usage().system_bytes
}

/// Builds the network of the published recipe as a run does. The files are a backbone and a
/// released checkpoint of Rein and head.
fn load(backbone: &Path, trained: &Path) -> Result<Segmenter> {
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let settings = [set("model.weights", backbone), set("model.checkpoint", trained)];
    network::build(&Recipe::from_name("gtav-dinov2-l-rein", &settings)?)
}

#[test]
fn full_size_files_load_strictly_into_memory_of_their_size() {
    let _alone = ALONE.write().expect("unpoisoned");
    let dir = tempfile::tempdir().expect("folder");
    let (backbone, trained) = (backbone(), trained());
    let bytes: u64 = backbone.iter().chain(&trained).map(Entry::written).sum();
    assert!(bytes > 1_300_000_000, "{bytes}");
    for (ending, writer) in WRITERS {
        let files = [("backbone", &backbone), ("trained", &trained)];
        let [a, b] = files.map(|(n, e)| write(dir.path(), &format!("{n}.{ending}"), writer, e));
        let before = held();
        let model = load(&a, &b).unwrap_or_else(|e| panic!("{ending}: {e}"));
        let taken = usage().system_bytes - before;
        let most = bytes + bytes / 20;
        assert!(taken < most as usize, "{ending}: loading {bytes} bytes took {taken}");
        let built: BTreeSet<String> = model.params().keys().cloned().collect();
        let files: BTreeSet<String> = backbone
            .iter()
            .map(|e| format!("backbone.{}", e.name))
            .filter(|n| n != "backbone.mask_token")
            .chain(trained.iter().map(|e| e.name.clone()))
            .collect();
        assert_eq!(built, files, "{ending}");
        drop(model);
        memory::trim();
    }
}

/// Checks the authors' file, with patches of 14 and images of 518 pixels.
#[test]
fn the_authors_own_file_is_resized_on_load() {
    let _alone = ALONE.write().expect("unpoisoned");
    let dir = tempfile::tempdir().expect("folder");
    let mut entries = backbone();
    let mut set = |name: &str, shape: &[u64]| {
        let entry = entries.iter_mut().find(|e| e.name == name).expect("a recorded name");
        entry.shape = shape.to_vec();
    };
    set("patch_embed.proj.weight", &[1024, 3, 14, 14]);
    set("pos_embed", &[1, 1 + 37 * 37, 1024]);
    let (_, writer) = WRITERS[1];
    let original = write(dir.path(), "dinov2_vitl14_pretrain.pth", writer, &entries);
    let trained_entries = trained();
    let trained = write(dir.path(), "trained.pth", writer, &trained_entries);
    let before = held();
    let model = load(&original, &trained).expect("loaded");
    let taken = usage().system_bytes - before;
    let bytes: u64 = entries.iter().chain(&trained_entries).map(Entry::written).sum();
    let most = (bytes + bytes / 20) as usize;
    assert!(taken < most, "loading {bytes} bytes took {taken}");
    let shape = |name: &str| model.params()[&format!("backbone.{name}")].get().shape().to_vec();
    assert_eq!(shape("patch_embed.proj.weight"), [1024, 3, PATCH, PATCH]);
    assert_eq!(shape("pos_embed"), [1, 1 + GRID * GRID, 1024]);
}

/// Checks that values of another type are copied and the file's pages are not kept next to the
/// copy.
#[test]
fn pages_of_converted_tensors_are_released() {
    let _alone = ALONE.write().expect("unpoisoned");
    let dir = tempfile::tempdir().expect("folder");
    let entry =
        |i| Entry { kind: ScalarType::F16, ..Entry::zeros(&format!("blocks.{i}"), &[1 << 20]) };
    let entries: Vec<Entry> = (0..32).map(entry).collect();
    let legacy: Writer = |out, entries| checkpoint::legacy(out, entries, "");
    for (ending, writer) in [WRITERS[0], WRITERS[1], ("legacy.pth", legacy)] {
        let path = write(dir.path(), &format!("halves.{ending}"), writer, &entries);
        let dict = StateDict::open(&path).expect("opened");
        // If the system does not report it, nothing can be checked.
        let Some(before) = resident() else { return };
        let sum = |t: Tensor| t.data::<f32>().expect("f32").iter().sum::<f32>();
        let floats = |t: &Stored| t.to_float(DType::F32).expect("read").expect("floats");
        assert!(dict.iter().all(|(_, t)| sum(floats(t)) == 0.0), "{ending}");
        let growth = resident().expect("as before").saturating_sub(before);
        // The largest part is the buffer of one tensor, four megabytes. The file has 64.
        assert!(growth < 16 << 20, "{ending}: {growth} bytes are kept");
    }
}

/// Possible faults of a tensor.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Removed,
    Renamed,
    Transposed,
    /// One row less.
    Truncated,
    /// The right shape, but one element less in the file.
    Cut,
}

impl Wrong {
    const ALL: [Wrong; 5] =
        [Wrong::Removed, Wrong::Renamed, Wrong::Transposed, Wrong::Truncated, Wrong::Cut];
}

/// Changes tensor `i`. Returns the words of the error, or `None` if the change cannot be seen.
fn change(entries: &mut Vec<Entry>, i: usize, wrong: Wrong) -> Option<Vec<String>> {
    let Entry { name, shape, .. } = entries[i].clone();
    let found = match wrong {
        Wrong::Removed => {
            entries.remove(i);
            return Some(vec![format!("{name} "), "is missing".into()]);
        }
        Wrong::Renamed => {
            entries[i].name = format!("{name}_old");
            return Some(vec![format!("{name} "), format!("{name}_old "), "left over".into()]);
        }
        // A square matrix does not show it.
        Wrong::Transposed => shape.iter().rev().copied().collect(),
        Wrong::Cut => {
            let bytes = entries[i].written() - entries[i].kind.size();
            entries[i].content = Content::Hole(bytes);
            return Some(vec![name]);
        }
        Wrong::Truncated if shape.is_empty() => vec![0],
        Wrong::Truncated => [&[shape[0] - 1], &shape[1..]].concat(),
    };
    let seen = found != shape;
    entries[i].shape = found.clone();
    seen.then(|| vec![format!("{name} is {found:?}"), "expected".into()])
}

/// Loads the published files with a fault in every `step`th tensor of one of them, one after
/// another.
fn each_is_named(which: &str, (ending, writer): (&str, Writer), step: usize) {
    let _shared = ALONE.read().expect("unpoisoned");
    let dir = tempfile::tempdir().expect("folder");
    let entries = [backbone(), trained()];
    let at = usize::from(which == "trained");
    let mut paths = [0, 1].map(|i| write(dir.path(), &format!("{i}"), writer, &entries[i]));
    let (mut refused, mut loaded) = (0, false);
    for i in (0..entries[at].len()).step_by(step) {
        let name = &entries[at][i].name;
        for wrong in Wrong::ALL {
            let mut changed = entries[at].clone();
            let words = change(&mut changed, i, wrong);
            // A fault that cannot be seen lets the whole file load, so one such load is enough.
            if name == "mask_token" || (words.is_none() && loaded) {
                continue;
            }
            // The name is new each time: replacing a file makes the file system write it at once.
            let file = format!("{i}-{wrong:?}.{ending}");
            paths[at] = write(dir.path(), &file, writer, &changed);
            let result = load(&paths[0], &paths[1]);
            std::fs::remove_file(&paths[at]).expect("removed");
            let Some(words) = words else {
                assert!(result.is_ok(), "{name}: a square matrix is as good as its transpose");
                loaded = true;
                continue;
            };
            let Err(error) = result else { panic!("{name} {wrong:?} was not refused") };
            let text = error.to_string();
            let names_file = text.contains(paths[at].to_str().expect("path"));
            assert!(names_file && !text.contains('\n'), "{text:?}");
            assert!(words.iter().all(|w| text.contains(w)), "{text:?} lacks one of {words:?}");
            refused += 1;
        }
    }
    println!("{which}.{ending}: {refused} files with one wrong tensor, all refused by its name");
    assert!(refused > 4 * (entries[at].len() / step), "{refused}");
}

#[test]
fn a_wrong_tensor_of_the_backbone_is_named() {
    each_is_named("backbone", WRITERS[0], 1);
    each_is_named("backbone", WRITERS[3], 16);
}

#[test]
fn a_wrong_tensor_of_rein_or_the_head_is_named() {
    each_is_named("trained", WRITERS[0], 1);
    each_is_named("trained", WRITERS[3], 16);
}
