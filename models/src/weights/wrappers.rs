//! Wrappers and prefixes around the names in files, both published (spec backbones §6.4) and
//! written by trainers.

use std::collections::{BTreeMap, BTreeSet};

use super::container::FileResult;
use super::families::recognise_shapes;
use super::pickle::{Tree, Value};
use super::{Stored, shown};

/// Keys of a checkpoint under which weights are stored. Those of averaged weights come first
/// ([`rank`]); the others are tried in this order.
pub const WRAPPERS: [&str; 26] = [
    "state_dict",
    "model",
    "module",
    "model_state_dict",
    "model_ema",
    "teacher",
    "student",
    "state_dict_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "params_ema",
    "swa_state_dict",
    "swa_model",
    "averaged_model",
    "shadow",
    "target_encoder",
    "encoder",
    "net",
    "network",
    "backbone",
    "params",
    "weights",
    "g_ema",
    "generator",
    "model_weights",
];

/// Words in the names of networks whose weights are averaged over training steps. If there are
/// several networks, published evaluations use these.
const MEANT: [&str; 7] = ["teacher", "ema", "swa", "averaged", "shadow", "target", "momentum"];

/// Rank of a wrapper or prefix among several; the lowest is taken.
fn rank(name: &str) -> usize {
    // MMEngine swaps the two when it saves, so `state_dict` is the average.
    if name == "ema_state_dict" {
        return MEANT.len();
    }
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    let of = |part: &str| MEANT.iter().position(|word| part.eq_ignore_ascii_case(word));
    parts.find_map(of).unwrap_or(MEANT.len())
}

/// Maximum depth of nested dictionaries that are followed.
const DEPTH: usize = 4;

/// The dictionary of weights inside of others.
pub struct Unwrapped {
    /// The dictionary.
    pub dict: Value,
    /// Keys on the path to it.
    pub passed: Vec<String>,
    /// Keys of other weights on the path, each with the key that was used instead.
    pub other_entries: Vec<(String, String)>,
}

/// Follows the wrappers from the root to the dictionary of weights.
pub(crate) fn unwrapped(tree: &Tree<'_>, root: Value) -> Unwrapped {
    let mut found = Unwrapped { dict: root, passed: Vec::new(), other_entries: Vec::new() };
    // Nested wrappers occur, but no cycles of them.
    while found.passed.len() < DEPTH {
        let mut dicts = wrappers(tree, found.dict);
        dicts.sort_by_key(|(wrapper, _)| rank(wrapper));
        // An empty wrapper, or one of settings, does not hide another.
        let (mut good, poor): (Vec<_>, Vec<_>) =
            dicts.into_iter().partition(|(_, v)| promising(tree, *v));
        if good.is_empty() && !holds_tensor(tree, found.dict) {
            good = match holders(tree, found.dict).as_slice() {
                [only] => vec![only.clone()],
                _ => poor.into_iter().take(1).collect(),
            };
        }
        let mut good = good.into_iter();
        let Some((wrapper, inside)) = good.next() else { break };
        found.other_entries.extend(good.map(|(other, _)| (other, wrapper.clone())));
        found.passed.push(wrapper);
        found.dict = inside;
    }
    found
}

/// The wrappers in a dictionary whose values are dictionaries, in the order of the table.
fn wrappers(tree: &Tree<'_>, dict: Value) -> Vec<(String, Value)> {
    let mut found = [None; WRAPPERS.len()];
    for (key, value) in tree.pairs(dict).unwrap_or(&[]) {
        let at = tree.text(*key).and_then(|key| WRAPPERS.iter().position(|w| *w == key));
        if let Some(at) = at {
            found[at] = Some(*value);
        }
    }
    let found = WRAPPERS.iter().zip(found).filter_map(|(w, v)| Some((w.to_string(), v?)));
    found.filter(|(_, v)| tree.pairs(*v).is_some()).collect()
}

/// Whether a dictionary contains a tensor or a wrapper.
fn promising(tree: &Tree<'_>, dict: Value) -> bool {
    holds_tensor(tree, dict) || !wrappers(tree, dict).is_empty()
}

fn holds_tensor(tree: &Tree<'_>, dict: Value) -> bool {
    tree.pairs(dict).unwrap_or(&[]).iter().any(|(_, v)| tree.view(*v).is_some())
}

/// The first few keys of a dictionary whose values are dictionaries of tensors.
pub fn holders(tree: &Tree<'_>, dict: Value) -> Vec<(String, Value)> {
    const LOOKED_AT: usize = 64;
    let pairs = tree.pairs(dict).unwrap_or(&[]).iter().take(LOOKED_AT);
    let holding = pairs.filter(|(_, v)| holds_tensor(tree, *v));
    holding.filter_map(|(key, v)| Some((tree.text(*key)?.into_owned(), *v))).collect()
}

/// The first few keys of a dictionary, for a message.
pub fn keys(tree: &Tree<'_>, dict: Value) -> String {
    let pairs = tree.pairs(dict).unwrap_or(&[]);
    let names = pairs.iter().filter_map(|(key, _)| tree.text(*key));
    first_of(names.map(|name| name.into_owned()), pairs.len())
}

/// The first few of `count` names, for a message.
pub(crate) fn first_of(names: impl Iterator<Item = String>, count: usize) -> String {
    const SHOWN: usize = 8;
    // No further name is added after this length: a message has room for one long name at most.
    const LETTERS: usize = 160;
    let (mut some, mut letters) = (Vec::new(), 0);
    for name in names {
        if some.len() == SHOWN || letters > LETTERS {
            break;
        }
        let name = shown(&name);
        letters += name.chars().count();
        some.push(name);
    }
    let more = if count > some.len() { ", ..." } else { "" };
    format!("{}{more}", some.join(", "))
}

/// Parts that wrappers of modules insert into names: `torch.compile`, FSDP, activation checkpoints,
/// engines.
const MARKERS: [&str; 5] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_fpw_module",
];

/// Prefix that data-parallel training adds to every name.
const PARALLEL: &str = "module.";

/// Counters stored with averaged weights.
const COUNTERS: [&str; 4] = ["n_averaged", "steps", "num_updates", "decay"];

/// Removes the parts that wrappers of modules added to all names, and skips their counters. Removed
/// parts are added to `wrapper`, counters to `skipped`.
///
/// # Errors
/// Parameters that FSDP has flattened.
pub fn normalise(
    tensors: &mut BTreeMap<String, Stored>,
    wrapper: &mut Vec<String>,
    skipped: &mut Vec<(String, String)>,
) -> FileResult<()> {
    if let Some(name) = tensors.keys().find(|n| n.ends_with("flat_param")) {
        return Err(format!(
            "holds {}, parameters that FSDP has flattened into one; save the full state dict",
            shown(name)
        )
        .into());
    }
    for marker in MARKERS {
        let without = |name: &str| match name.contains(marker) {
            true => name.split('.').filter(|part| *part != marker).collect::<Vec<_>>().join("."),
            false => name.to_string(),
        };
        if rename(tensors, without) {
            wrapper.push(format!("{marker}."));
        }
    }
    let counter = |name: &str| COUNTERS.contains(&name);
    let parallel = |tensors: &BTreeMap<String, Stored>| {
        let mut names = tensors.keys().filter(|name| !counter(name)).peekable();
        names.peek().is_some() && names.all(|name| name.starts_with(PARALLEL))
    };
    while parallel(tensors) {
        pass_over(tensors, skipped, "the counter of averaged weights", |name| !counter(name));
        if !rename(tensors, |name| name[PARALLEL.len()..].to_string()) {
            break;
        }
        wrapper.push(PARALLEL.into());
    }
    rename(tensors, unchunked);
    Ok(())
}

/// Removes the prefix of a network that is only recognised without it, and skips tensors without
/// this prefix.
///
/// # Errors
/// Several networks with no obvious choice.
pub fn separate(
    tensors: &mut BTreeMap<String, Stored>,
    wrapper: &mut Vec<String>,
    skipped: &mut Vec<(String, String)>,
) -> FileResult<()> {
    if let Some(prefix) = outer(tensors)? {
        let what = format!("not among those under {}", shown(&prefix));
        pass_over(tensors, skipped, &what, |name| name.starts_with(&prefix));
        rename(tensors, |name| name[prefix.len()..].to_string());
        wrapper.push(prefix);
    }
    Ok(())
}

/// Renames all tensors and returns whether it did. It does nothing if no name would change, two
/// names would become equal, or a name would become empty.
fn rename(tensors: &mut BTreeMap<String, Stored>, f: impl Fn(&str) -> String) -> bool {
    let renamed: BTreeSet<String> = tensors.keys().map(|name| f(name)).collect();
    if renamed.len() < tensors.len() || renamed.contains("") || renamed.iter().eq(tensors.keys()) {
        return false;
    }
    let all = std::mem::take(tensors).into_iter();
    tensors.extend(all.map(|(name, t)| (f(&name), t)));
    true
}

/// Removes unwanted tensors and adds their names to the list of skipped ones.
fn pass_over(
    tensors: &mut BTreeMap<String, Stored>,
    skipped: &mut Vec<(String, String)>,
    what: &str,
    wanted: impl Fn(&str) -> bool,
) {
    const LISTED: usize = 64;
    tensors.retain(|name, _| {
        let wanted = wanted(name);
        if !wanted && skipped.len() < LISTED {
            skipped.push((shown(name), what.to_string()));
        }
        wanted
    });
}

/// A name without the number of its chunk. DINOv2's trainer writes `blocks.1.3.` for block 3, in
/// chunk 1; block numbers do not restart in each chunk.
fn unchunked(name: &str) -> String {
    let numeric = |part: &&str| part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
    let parts: Vec<&str> = name.split('.').collect();
    let chunk = parts.windows(3).position(|w| w[0] == "blocks" && w[1..].iter().all(numeric));
    let rest = parts.iter().enumerate().filter(|(i, _)| chunk.is_none_or(|at| *i != at + 1));
    rest.map(|(_, part)| *part).collect::<Vec<_>>().join(".")
}

/// Names that locate a network: the text before them is its prefix. The first two are those
/// of whole segmenters.
const ANCHORS: [&str; 6] = [
    "decode_head.cls_embed.weight",
    "decode_head.conv_seg.weight",
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
    "class_embedding",
];

/// Prefix of the names of a network that is only recognised without it.
fn outer(tensors: &BTreeMap<String, Stored>) -> FileResult<Option<String>> {
    // Maximum number of networks in a file that are tried.
    const TRIED: usize = 8;
    let ours = |name: &String| name.starts_with("decode_head.") || name.contains("reins.");
    let shapes: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
    if recognise_shapes(&shapes).is_some() || shapes.keys().any(|n| n.starts_with("decode_head.")) {
        return Ok(None);
    }
    for anchor in ANCHORS {
        let prefix = |name: &String| {
            let prefix = name.strip_suffix(anchor)?;
            prefix.ends_with('.').then(|| prefix.to_string())
        };
        let under = |prefix: &String| -> BTreeMap<String, Vec<usize>> {
            let inside =
                shapes.iter().filter_map(|(n, s)| Some((n.strip_prefix(prefix.as_str())?, s)));
            inside.map(|(name, shape)| (name.to_string(), shape.clone())).collect()
        };
        let known = |prefix: &String| {
            let inside = under(prefix);
            inside.keys().any(ours) || recognise_shapes(&inside).is_some()
        };
        let found: Vec<String> =
            shapes.keys().filter_map(prefix).take(TRIED).filter(known).collect();
        let meant = found.iter().filter(|p| rank(p) < MEANT.len()).min_by_key(|p| rank(p));
        match (found.as_slice(), meant) {
            ([], _) => {}
            ([only], _) => return Ok(Some(only.clone())),
            (_, Some(meant)) => return Ok(Some(meant.clone())),
            (several, None) => {
                let list = several.iter().map(|p| shown(p)).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "holds {} networks, under {list}; save the one that is meant by itself",
                    several.len()
                )
                .into());
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use dressage_engine::{DType, Tensor};

    use super::*;

    const BACKBONE: [&str; 6] = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "blocks.0.norm1.weight",
        "blocks.1.ls1.gamma",
    ];

    type Normalised = (Vec<String>, Vec<String>, Vec<String>);

    fn try_normalise(names: &[String]) -> FileResult<Normalised> {
        let tensor = || Stored::from(Tensor::zeros(DType::F32, &[4, 3, 2, 2]));
        let mut tensors: BTreeMap<String, Stored> =
            names.iter().map(|name| (name.clone(), tensor())).collect();
        let (mut wrapper, mut skipped) = (Vec::new(), Vec::new());
        normalise(&mut tensors, &mut wrapper, &mut skipped)?;
        separate(&mut tensors, &mut wrapper, &mut skipped)?;
        let skipped = skipped.into_iter().map(|(name, _)| name).collect();
        Ok((tensors.into_keys().collect(), wrapper, skipped))
    }

    /// Result of normalising the backbone's names changed by `f`, and `more`.
    fn normalised(f: impl Fn(&str) -> String, more: &[&str]) -> Normalised {
        let names = BACKBONE.iter().map(|n| f(n)).chain(more.iter().map(|n| n.to_string()));
        try_normalise(&names.collect::<Vec<_>>()).expect("normalised")
    }

    fn plain() -> Vec<String> {
        let mut names = BACKBONE.map(str::to_string).to_vec();
        names.sort();
        names
    }

    #[test]
    fn wrappers_are_taken_off_in_any_order_and_number() {
        for (prefix, wrapper) in [
            ("_orig_mod.", vec!["_orig_mod."]),
            ("module._orig_mod.", vec!["_orig_mod.", "module."]),
            ("_orig_mod.module.", vec!["_orig_mod.", "module."]),
            ("module.module.", vec!["module.", "module."]),
            ("module._fsdp_wrapped_module.", vec!["_fsdp_wrapped_module.", "module."]),
            ("_orig_mod._orig_mod.module._orig_mod.", vec!["_orig_mod.", "module."]),
            ("model.", vec!["model."]),
            ("net.encoder.", vec!["net.encoder."]),
            ("module.model.module.", vec!["module.", "model.module."]),
        ] {
            let (names, passed, skipped) = normalised(|n| format!("{prefix}{n}"), &[]);
            assert_eq!((names, passed, skipped.len()), (plain(), owned(&wrapper), 0), "{prefix}");
        }
        let inside = |n: &str| {
            n.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module._fsdp_wrapped_module.")
        };
        assert_eq!(normalised(inside, &[]).0, plain());
        // Known prefixes stay, because they identify the file.
        let (names, passed, _) = normalised(|n| format!("module.backbone.{n}"), &[]);
        assert_eq!(
            (names[0].as_str(), passed.as_slice()),
            ("backbone.blocks.0.norm1.weight", &["module.".into()][..])
        );
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| w.to_string()).collect()
    }

    #[test]
    fn other_objects_next_to_the_weights_are_passed_over() {
        let (names, _, skipped) = normalised(|n| format!("module.{n}"), &["n_averaged"]);
        assert_eq!((names, skipped), (plain(), owned(&["n_averaged"])));
        let more = ["criterion.weight", "model.head.bias"];
        let (names, passed, skipped) = normalised(|n| format!("model.encoder.{n}"), &more);
        assert_eq!((names, passed), (plain(), owned(&["model.encoder."])));
        assert_eq!(skipped, more);
        // A prefix that some names lack is not from data-parallel training.
        assert_eq!(normalised(|n| n.to_string(), &["module.x"]).0.len(), BACKBONE.len() + 1);
    }

    #[test]
    fn the_teacher_is_meant_and_others_are_asked_for() {
        let both = |a: &str, b: &str| {
            let of = |p: &str| BACKBONE.map(|n| format!("{p}{n}")).to_vec();
            try_normalise(&[of(a), of(b)].concat())
        };
        let (names, passed, _) = both("student.backbone.", "teacher.backbone.").expect("teacher");
        assert_eq!((names, passed), (plain(), owned(&["teacher.backbone."])));
        let (_, passed, _) = both("ema_model.", "online_model.").expect("average");
        assert_eq!(passed, ["ema_model."]);
        for (average, other) in [
            ("averaged_model.", "model."),
            ("momentum_encoder.", "base_encoder."),
            ("shadow.", "model."),
            ("swa_model.module.", "semantic.model."),
        ] {
            let (_, passed, skipped) = both(average, other).expect(average);
            assert_eq!((passed, skipped.len()), (owned(&[average]), BACKBONE.len()));
        }
        let fault = both("left.", "right.").expect_err("either");
        assert!(fault.cause.contains("2 networks, under left., right."), "{fault:?}");
        let flat = try_normalise(&["a._fsdp_wrapped_module._flat_param".into()]);
        assert!(flat.expect_err("flattened").cause.contains("FSDP"));
    }

    #[test]
    fn chunks_of_blocks_are_undone_where_they_count_through() {
        let chunked =
            |n: &str| n.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.3.1.");
        assert_eq!(normalised(chunked, &[]).0, plain());
        let stages = ["blocks.0.0.conv.weight", "blocks.1.0.conv.weight"].map(str::to_string);
        assert_eq!(try_normalise(&stages).expect("stages").0, stages);
    }

    #[test]
    fn names_that_would_meet_stay() {
        let names = ["_orig_mod.a", "a"].map(str::to_string);
        assert_eq!(try_normalise(&names).expect("both").0, names);
        let bare = ["module.".to_string()];
        assert_eq!(try_normalise(&bare).expect("stays").0, bare);
    }
}
