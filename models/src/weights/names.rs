//! Wrappers and prefixes around the names of published files (spec backbones §6.4).

use std::collections::BTreeMap;

use super::pickle::{Tree, Value};
use super::{Stored, shown};

/// Keys of a checkpoint that hold its weights, in the order in which they are looked for.
pub const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "model_ema"];

/// What data-parallel training puts in front of every name.
const PARALLEL: &str = "module.";

/// Follows the wrappers from the root to the dictionary of weights; also names those it passed.
pub fn unwrapped(tree: &Tree<'_>, root: Value) -> (Value, Vec<&'static str>) {
    let (mut value, mut passed) = (root, Vec::new());
    // One wrapper in another occurs; a circle of them does not.
    while passed.len() < WRAPPERS.len() {
        let inner = WRAPPERS.iter().find_map(|wrapper| {
            let inside = entry(tree, value, wrapper)?;
            tree.pairs(inside).map(|_| (*wrapper, inside))
        });
        let Some((wrapper, inside)) = inner else { break };
        passed.push(wrapper);
        value = inside;
    }
    (value, passed)
}

fn entry(tree: &Tree<'_>, dict: Value, key: &str) -> Option<Value> {
    let pairs = tree.pairs(dict)?;
    pairs.iter().rev().find(|(k, _)| tree.text(*k).as_deref() == Some(key)).map(|(_, v)| *v)
}

/// The first few keys of a dictionary, for a message.
pub fn keys(tree: &Tree<'_>, dict: Value) -> String {
    const SHOWN: usize = 8;
    // No name is begun beyond: a sentence has room for one long name at most.
    const LETTERS: usize = 160;
    let pairs = tree.pairs(dict).unwrap_or(&[]);
    let (mut names, mut letters) = (Vec::new(), 0);
    for key in pairs.iter().filter_map(|(key, _)| tree.text(*key)) {
        if names.len() == SHOWN || letters > LETTERS {
            break;
        }
        let name = shown(&key);
        letters += name.chars().count();
        names.push(name);
    }
    let more = if pairs.len() > names.len() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// Takes the prefix of data-parallel training off, if every name has it; says whether.
pub fn strip_parallel(tensors: &mut BTreeMap<String, Stored>) -> bool {
    if tensors.is_empty() || !tensors.keys().all(|name| name.starts_with(PARALLEL)) {
        return false;
    }
    let all = std::mem::take(tensors).into_iter();
    tensors.extend(all.map(|(name, t)| (name[PARALLEL.len()..].to_string(), t)));
    true
}
