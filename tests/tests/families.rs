//! Full-size files of every family under the names of each of their sources: they load strictly, and
//! a single wrong tensor is named.
//!
//! As in `published.rs`, the tensors are holes in the files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dressage_engine::{Role, memory};
use dressage_models::weights::{Difference, StateDict, convert_backbone};
use dressage_models::{Segmenter, counts};
use dressage_tests::checkpoint::{self, Content, Entry};
use dressage_tests::families::{Published, all};
use dressage_train::recipe::Recipe;
use dressage_train::{Result, network};
use rayon::prelude::*;

fn write(path: &Path, entries: &[Entry]) {
    let mut entries = entries.to_vec();
    // A file that ends in zeros is taken for a partial download.
    if let Some(last) = entries.last_mut() {
        last.content = Content::Bytes(1f32.to_le_bytes().repeat(last.len() as usize));
    }
    let mut file = File::create(path).expect("file");
    checkpoint::safetensors(&mut file, &entries).expect("written");
}

/// A recipe with the backbone of a file, without an adapter.
fn recipe(published: &Published, path: &Path) -> Result<Recipe> {
    let settings = [
        format!("model.backbone={}", published.backbone),
        format!("model.weights={}", path.display()),
        "model.method=freeze".into(),
        "head.kind=per-pixel".into(),
    ];
    let more = published.settings.iter().map(|setting| setting.to_string());
    let settings: Vec<String> = settings.into_iter().chain(more).collect();
    Ok(Recipe::from_name("gtav-dinov2-l-rein", &settings)?)
}

/// Builds the network of a backbone from its file.
fn load(published: &Published, path: &Path) -> Result<Segmenter> {
    network::build(&recipe(published, path)?)
}

/// Writes a file of `published` with these tensors.
fn file_of(dir: &Path, name: &str, published: &Published, entries: &[Entry]) -> PathBuf {
    let path = dir.join(format!("{}-{}-{name}.safetensors", published.backbone, published.names));
    write(&path, entries);
    path
}

#[test]
fn every_family_loads_strictly_under_the_names_of_each_source() {
    let dir = tempfile::tempdir().expect("folder");
    let mut loaded = BTreeSet::new();
    for published in all() {
        let path = file_of(dir.path(), "whole", &published, &published.entries);
        let what = format!("{}, {}", published.backbone, published.names);
        // Values are read once per network; under other names only names and shapes can differ.
        if !loaded.insert(published.backbone) {
            let recipe = recipe(&published, &path).expect("recipe");
            let config = network::config(&recipe).expect("sizes").backbone;
            let dict = StateDict::open_network(&path).expect("opened");
            let dict = convert_backbone(dict, &config).expect("converted");
            let shapes = counts::backbone(config).expect("shapes").into_iter();
            let wanted = shapes.map(|(name, param)| (name, param.shape)).collect();
            let difference = Difference::of(&dict.renamed("backbone.", ""), &wanted);
            assert_eq!(difference.lines(), Vec::<String>::new(), "{what}");
            fs::remove_file(path).expect("removed");
            continue;
        }
        let model = load(&published, &path).unwrap_or_else(|e| panic!("{what}: {e}"));
        let params = model.params().values();
        let backbone = params.filter(|param| param.kind().role == Role::Backbone);
        assert!(backbone.count() > 200, "{what}");
        drop(model);
        memory::trim();
        fs::remove_file(path).expect("removed");
    }
}

/// Possible faults of a tensor.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Removed,
    Renamed,
    Transposed,
    Truncated,
}

const FAULTS: [Wrong; 4] = [Wrong::Removed, Wrong::Renamed, Wrong::Transposed, Wrong::Truncated];

/// Changes tensor `i`.
fn change(entries: &mut Vec<Entry>, i: usize, wrong: Wrong) {
    let Entry { name, shape, .. } = entries[i].clone();
    let found: Vec<u64> = match wrong {
        Wrong::Removed => {
            entries.remove(i);
            return;
        }
        Wrong::Renamed => {
            entries[i].name = format!("{name}_old");
            return;
        }
        // A vector or a square matrix does not show that it is transposed; it is truncated instead.
        Wrong::Transposed if !shape.iter().eq(shape.iter().rev()) => {
            shape.iter().rev().copied().collect()
        }
        Wrong::Transposed | Wrong::Truncated => [&[shape[0] - 1], &shape[1..]].concat(),
    };
    if let Content::Bytes(bytes) = &mut entries[i].content {
        bytes.truncate(4 * found.iter().product::<u64>() as usize);
    }
    entries[i].shape = found;
}

/// Whether the network does without this tensor.
fn is_unused(published: &Published, name: &str) -> bool {
    let beside = [
        "text",
        "logit_scale",
        "visual_projection",
        "decoder",
        "prompt_encoder",
        "mask_decoder",
        "ln_post",
        "post_layernorm",
        "position_ids",
        "fc_norm",
        "lm_head",
        "rope.",
        "mask_token",
        "neck",
        "local_cls_norm",
        "num_batches_tracked",
    ];
    let other_tower = published.backbone == "clip-l"
        && published.names == "authors"
        && (!name.starts_with("visual.") || name == "visual.proj");
    let classifier = published.backbone == "convnext-l"
        && name.starts_with("head.")
        && !name.starts_with("head.norm.");
    let unused_norm = published.backbone == "eva02-l" && name.starts_with("norm.");
    let of_classes = published.backbone.starts_with("resnet") && name.starts_with("fc.");
    let unused = other_tower || classifier || of_classes || unused_norm;
    unused || beside.iter().any(|word| name.contains(word))
}

/// Whether a tensor is in the third of the blocks that are tested under the further names of a
/// backbone. These differ by rules that hold for all blocks. Under its first, each is tested.
fn is_sampled(name: &str) -> bool {
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
    numbers.sum::<u64>() % 3 == 0
}

#[test]
fn a_wrong_tensor_of_any_family_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("folder");
    let mut seen = BTreeSet::new();
    for published in all() {
        let Published { backbone, entries, .. } = &published;
        let whole = seen.insert(backbone.to_string());
        let cases: Vec<(usize, Wrong)> = (0..entries.len())
            .filter(|&i| !is_unused(&published, &entries[i].name))
            .filter(|&i| whole || is_sampled(&entries[i].name))
            // One fault of each tensor; blocks have tensors of their own, so kinds and names mix.
            .map(|i| (i, FAULTS[(i + i / 4) % 4]))
            .collect();
        cases.par_iter().for_each(|&(i, wrong)| {
            let name = &entries[i].name;
            let mut changed = entries.clone();
            change(&mut changed, i, wrong);
            let path = file_of(dir.path(), &format!("{i}{wrong:?}"), &published, &changed);
            let result = load(&published, &path);
            fs::remove_file(&path).expect("removed");
            let what = format!("{backbone}, {}: {name} {wrong:?}", published.names);
            let Err(error) = result else { panic!("{what} was not refused") };
            let text = error.to_string();
            let whole = text.contains(path.to_str().expect("path")) && !text.contains('\n');
            assert!(whole && text.contains(name.as_str()), "{what}: {text}");
        });
        println!("{backbone}, {}: {} wrong tensors are refused", published.names, cases.len());
        assert!(cases.len() > if whole { 200 } else { 60 }, "{}", cases.len());
    }
}
