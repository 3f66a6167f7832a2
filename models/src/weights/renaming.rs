//! Conversion of the names in published files to those of the network.

use std::collections::BTreeMap;

use dressage_engine::{DType, Tensor};

use super::families::Known;
use super::finite::finite;
use super::{StateDict, Stored};
use crate::{ModelError, Result};

/// A tensor's name in a file and what becomes of it. `{}` is the number of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Name in the file; a pattern that ends with `*` covers all names that begin so.
    theirs: &'static str,
    /// Name in the network.
    ours: &'static str,
    part: Part,
}

/// Part of a network's tensor, stacked along the first axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// One of several.
    Of(usize, usize),
    /// Zeros, which the file does not have.
    Zeros(usize, usize),
    /// None of any tensor.
    Unused,
}

/// A tensor with another name.
pub(super) const fn whole(theirs: &'static str, ours: &'static str) -> Rule {
    Rule { theirs, ours, part: Part::Whole }
}

/// Queries, keys or values (0, 1, 2) of a packed layer.
pub(super) const fn third(theirs: &'static str, ours: &'static str, i: usize) -> Rule {
    Rule { theirs, ours, part: Part::Of(i, 3) }
}

/// Gate or value (0, 1) of a packed SwiGLU.
pub(super) const fn half(theirs: &'static str, ours: &'static str, i: usize) -> Rule {
    Rule { theirs, ours, part: Part::Of(i, 2) }
}

/// Queries, keys or values of a packed layer that are zero.
pub(super) const fn zero_third(ours: &'static str, i: usize) -> Rule {
    Rule { theirs: "", ours, part: Part::Zeros(i, 3) }
}

/// A tensor that the network does not use.
pub(super) const fn unused(theirs: &'static str) -> Rule {
    Rule { theirs, ours: "", part: Part::Unused }
}

impl Rule {
    /// The number of the block if the rule is for this name.
    fn covers(&self, name: &str) -> Option<usize> {
        match self.theirs.strip_suffix('*') {
            Some(head) => name.starts_with(head).then_some(0),
            None => number(self.theirs, name),
        }
    }
}

/// The number at `{}` if `name` matches the pattern; 0 for a pattern without `{}`.
pub(super) fn number(pattern: &str, name: &str) -> Option<usize> {
    match pattern.split_once("{}") {
        None => (pattern == name).then_some(0),
        Some((head, tail)) => {
            let digits = name.strip_prefix(head)?.strip_suffix(tail)?;
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        }
    }
}

fn at(pattern: &str, n: usize) -> String {
    pattern.replacen("{}", &n.to_string(), 1)
}

fn flat(rules: &[&'static [Rule]]) -> impl Iterator<Item = &'static Rule> {
    rules.iter().copied().flatten()
}

impl Known {
    /// Name of the network's tensor `name` in the file, or names of its parts.
    pub(super) fn name_in_file(&self, name: &str) -> String {
        let own = flat(self.rules).filter(|rule| !rule.theirs.is_empty());
        let theirs = own.filter_map(|rule| Some(at(rule.theirs, number(rule.ours, name)?)));
        let theirs: Vec<String> = theirs.map(|name| format!("{}{name}", self.prefix)).collect();
        if theirs.is_empty() { format!("{}{name}", self.prefix) } else { theirs.join(" + ") }
    }
}

/// Parts of tensors of the network, with their names in the file, by name in the network.
type Stacks = BTreeMap<String, BTreeMap<usize, (String, Stored)>>;

/// The tensors of a backbone under the names of its network.
///
/// Tensors without the prefix of `known` belong to something else and are dropped, and so are those
/// that a rule calls unused. Names without a rule do not change; the network refuses them.
///
/// # Errors
/// A packed layer without one of its parts, or with parts that do not match; an unused tensor that is
/// not finite.
pub(super) fn own_names(dict: StateDict, known: &Known) -> Result<StateDict> {
    let (rules, dict) = (known.rules, dict.renamed(known.prefix, ""));
    if rules.is_empty() {
        return Ok(dict);
    }
    let mut ours = dict.emptied();
    ours.converted_from = Some(known.clone());
    let mut stacks = Stacks::new();
    for (name, tensor) in dict {
        let rule = flat(rules).find_map(|rule| Some((rule, rule.covers(&name)?)));
        match rule {
            None => ours.insert(name, tensor),
            Some((Rule { ours: to, part: Part::Whole, .. }, n)) => ours.insert(at(to, n), tensor),
            Some((Rule { ours: to, part: Part::Of(i, _), .. }, n)) => {
                stacks.entry(at(to, n)).or_default().insert(*i, (name, tensor));
            }
            Some(_) => usable(&name, &tensor, ours.origin())?,
        }
    }
    for (to, parts) in stacks {
        let tensor = stack(known, &to, parts)?.map_err(|difference| ModelError::Mismatch {
            source_name: ours.origin().to_string(),
            network: known.family.to_string(),
            difference,
        })?;
        ours.insert(to, tensor);
    }
    Ok(ours)
}

/// Refuses values that are not finite: they show a broken file even in a tensor that is not used.
pub(super) fn usable(name: &str, tensor: &Stored, origin: &str) -> Result<()> {
    match tensor.checked_float(DType::F32)? {
        Some(values) => finite(name, tensor, origin, &values),
        None => Ok(()),
    }
}

/// The parts of a tensor as one, or the reason why they do not form one.
fn stack(
    known: &Known,
    to: &str,
    mut parts: BTreeMap<usize, (String, Stored)>,
) -> Result<std::result::Result<Stored, String>> {
    let (rules, prefix) = (known.rules, known.prefix);
    let own = || flat(rules).filter_map(|rule| Some((rule, number(rule.ours, to)?)));
    let of = own().find_map(|(rule, _)| match rule.part {
        Part::Of(_, of) => Some(of),
        _ => None,
    });
    let mut names = Vec::new();
    let mut tensors = Vec::new();
    for i in 0..of.unwrap_or(0) {
        if let Some((name, tensor)) = parts.remove(&i) {
            names.push(format!("{prefix}{name} is {:?}", tensor.shape()));
            tensors.push(tensor);
        } else if own().any(|(rule, _)| matches!(rule.part, Part::Zeros(j, _) if i == j)) {
            let like = tensors.first().map(|part: &Stored| part.shape().to_vec());
            tensors.push(Tensor::zeros(DType::F32, &like.unwrap_or_default()).into());
        } else {
            let is = |part: Part| matches!(part, Part::Of(j, _) if i == j);
            let theirs = own().find(|(rule, _)| is(rule.part));
            let name = theirs.map(|(rule, n)| at(rule.theirs, n)).unwrap_or_default();
            return Ok(Err(format!("{prefix}{name} is missing")));
        }
    }
    let stacked = Stored::stacked(tensors)?;
    Ok(stacked.ok_or_else(|| format!("{}; they do not form one layer", names.join(", "))))
}
