//! Conversion of the names in published files to those of the network.

use super::families::{Known, number};
use super::{StateDict, Stored};
use crate::{ModelError, Result};

/// A tensor's name in a file and in the network.
///
/// Source name, target name and, if the target is stacked from several tensors, the index of the
/// part. Parts are stacked along the first axis. `{}` is the number of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule(&'static str, &'static str, Option<usize>);

/// Parts of a stacked layer: queries, keys and values, in this order.
const PARTS: usize = 3;

pub(super) const fn whole(theirs: &'static str, ours: &'static str) -> Rule {
    Rule(theirs, ours, None)
}

pub(super) const fn part(theirs: &'static str, ours: &'static str, i: usize) -> Rule {
    Rule(theirs, ours, Some(i))
}

/// The tensors of a backbone under the names of its network. Tensors without the prefix of `known`
/// belong to a head and are dropped. Names without a rule do not change; the network refuses them.
///
/// # Errors
/// Queries without their keys or values, or with shapes that do not match.
pub(super) fn own_names(dict: StateDict, known: &Known) -> Result<StateDict> {
    let (rules, dict) = (known.rules, dict.renamed(known.prefix, ""));
    if rules.is_empty() {
        return Ok(dict);
    }
    let mut ours = dict.emptied();
    let mut stacks = std::collections::BTreeMap::<String, [Option<(String, Stored)>; PARTS]>::new();
    for (name, tensor) in dict {
        let rule = rules.iter().find_map(|rule| Some((rule, number(rule.0, &name)?)));
        match rule {
            None => ours.insert(name, tensor),
            Some((Rule(_, to, None), n)) => ours.insert(at(to, n), tensor),
            Some((Rule(_, to, Some(i)), n)) => {
                stacks.entry(at(to, n)).or_default()[*i] = Some((name, tensor));
            }
        }
    }
    for (to, parts) in stacks {
        let tensor = stack(rules, &to, parts)?.map_err(|difference| ModelError::Mismatch {
            source_name: ours.origin().to_string(),
            network: known.family.to_string(),
            difference,
        })?;
        ours.insert(to, tensor);
    }
    Ok(ours)
}

fn at(pattern: &str, n: usize) -> String {
    pattern.replacen("{}", &n.to_string(), 1)
}

/// Queries, keys and values as one layer, or the reason why they do not form one.
fn stack(
    rules: &[Rule],
    to: &str,
    parts: [Option<(String, Stored)>; PARTS],
) -> Result<std::result::Result<Stored, String>> {
    let theirs = |i: usize| {
        let rule = rules
            .iter()
            .find_map(|rule| Some((rule, number(rule.1, to)?)).filter(|(r, _)| r.2 == Some(i)));
        rule.map(|(rule, n)| at(rule.0, n)).unwrap_or_default()
    };
    let mut names = Vec::new();
    let mut tensors = Vec::new();
    for (i, part) in parts.into_iter().enumerate() {
        let Some((name, tensor)) = part else {
            return Ok(Err(format!("{} is missing", theirs(i))));
        };
        names.push(format!("{name} is {:?}", tensor.shape()));
        tensors.push(tensor);
    }
    let stacked = Stored::stacked(tensors)?;
    Ok(stacked.ok_or_else(|| format!("{}; they do not form one layer", names.join(", "))))
}
