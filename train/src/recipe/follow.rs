//! Values that follow other keys where they are not set.
//!
//! A resolved recipe has a value for every key, and lists those that follow others (`derived`).
//! When it is read back and one of those others is overridden, the value is dropped and derived
//! anew from the default.

use toml::{Table, Value};

use super::resolve::pattern;

/// Keys that follow others, with the keys that they follow.
const FOLLOWS: &[(&str, &[&str])] = &[
    ("augment.max_long_edge", &["augment.crop"]),
    // Also follows `eval.stride`: a set that has a crop derives its stride from that crop.
    ("data.eval[].crop", &["eval.crop", "eval.stride"]),
    ("data.eval[].groups", &["data.groups"]),
    ("data.eval[].stride", &["data.eval[].crop", "eval.stride"]),
    ("data.train[].groups", &["data.groups"]),
    ("eval.averaged", &["train.ema.rate"]),
    ("eval.crop", &["augment.crop"]),
    ("eval.stride", &["eval.crop"]),
    ("head.mask_width", &["head.width"]),
    ("lora.alpha", &["lora.rank"]),
    ("model.depth", &["model.backbone", "model.stages"]),
    ("model.embed_dim", &["model.backbone"]),
    ("model.ffn", &["model.backbone", "model.embed_dim", "model.ffn_form"]),
    ("model.ffn_form", &["model.backbone"]),
    ("model.heads", &["model.backbone"]),
    ("model.image", &["augment.crop"]),
    ("model.registers", &["model.backbone"]),
    ("model.stages", &["model.backbone"]),
    ("model.tap_norm", &["model.backbone"]),
    ("model.taps", &["model.backbone", "model.stages"]),
    ("recycle-lora.first_block", &["model.depth"]),
    ("rein.link", &["head.kind"]),
    ("rein.tokens", &["head.queries"]),
    ("soma.first_block", &["model.depth"]),
    ("train.adapter_lr_mult", &["model.method"]),
    ("train.weight_decay_end", &["train.weight_decay"]),
];

/// Removes the list of derived keys from a recipe's table and returns it.
pub(super) fn take(value: &mut Value) -> Vec<String> {
    let list = value.as_table_mut().and_then(|table| table.remove("derived"));
    let names = list.as_ref().and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Drops the values of derived keys that follow one of the overridden keys `set`. Then `derived`
/// lists the keys that are not set.
pub(super) fn rederive(value: &mut Value, derived: &mut Vec<String>, set: &[&str]) {
    let covered = |path: &str| set.iter().any(|set| is_or_holds(set, path));
    derived.retain(|path| !covered(path));
    let mut dropped: Vec<String> = Vec::new();
    while let Some(path) = derived.iter().find(|path| {
        let follows = |other: &String| covered(other) || dropped.contains(other);
        !dropped.contains(path) && followed(path).iter().any(follows)
    }) {
        dropped.push(path.clone());
    }
    dropped.iter().for_each(|path| remove(value, path));
    derived.retain(|path| at(value, path).is_some());
    derived.extend(unset(value));
    derived.sort_unstable();
    derived.dedup();
}

/// Whether `path` is `key` or inside it.
fn is_or_holds(key: &str, path: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Keys that the one at `path` follows, in the same entry of a list.
fn followed(path: &str) -> Vec<String> {
    let kind = pattern(path);
    let index = path.split('.').find(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let position = index.map(|i| format!(".{i}")).unwrap_or_default();
    let row = FOLLOWS.iter().find(|(key, _)| *key == kind);
    let keys = row.into_iter().flat_map(|(_, keys)| keys.iter());
    keys.map(|key| key.replace("[]", &position)).collect()
}

/// Paths of keys that follow others and have no value, or empty groups.
fn unset(value: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, _) in FOLLOWS {
        match key.split_once("[]") {
            None => paths.push((*key).to_owned()),
            Some((list, rest)) => {
                let n = at(value, list).and_then(Value::as_array).map_or(0, Vec::len);
                paths.extend((0..n).map(|i| format!("{list}.{i}{rest}")));
            }
        }
    }
    // Empty groups stand for those of all sets.
    let open = |path: &String| match at(value, path) {
        Some(Value::Array(list)) => list.is_empty() && path.ends_with(".groups"),
        other => other.is_none(),
    };
    paths.retain(open);
    paths
}

/// The value at a path.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |at, part| match at {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

fn remove(value: &mut Value, path: &str) {
    let Some((inside, last)) = path.rsplit_once('.') else { return };
    let holder = inside.split('.').try_fold(value, |at, part| match at {
        Value::Array(list) => list.get_mut(part.parse::<usize>().ok()?),
        other => other.get_mut(part),
    });
    if let Some(table) = holder.and_then(Value::as_table_mut) {
        Table::remove(table, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::keys::find;

    #[test]
    fn the_table_names_keys_of_the_catalogue() {
        for (key, others) in FOLLOWS {
            for key in others.iter().chain([key]) {
                assert!(find(key).is_some(), "{key}");
            }
        }
    }
}
