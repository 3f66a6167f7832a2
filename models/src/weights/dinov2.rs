//! Names of DINOv2 weights. Names of the transformers library are converted to the authors' names,
//! which the network uses (spec backbones §4.1).

use super::families::{HUGGING_FACE, Known, number};
use super::{StateDict, Stored};
use crate::{ModelError, Result};

/// Source name, target name and, if the target is stacked from several tensors, the index of the
/// part. Parts are stacked along the first axis. `{}` is the number of a block.
struct Rule(&'static str, &'static str, Option<usize>);

/// Parts of a stacked layer: queries, keys and values, in this order.
const PARTS: usize = 3;

const fn whole(theirs: &'static str, ours: &'static str) -> Rule {
    Rule(theirs, ours, None)
}

const fn part(theirs: &'static str, ours: &'static str, i: usize) -> Rule {
    Rule(theirs, ours, Some(i))
}

const QKV_WEIGHT: &str = "blocks.{}.attn.qkv.weight";
const QKV_BIAS: &str = "blocks.{}.attn.qkv.bias";

const RULES: &[Rule] = &[
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.mask_token", "mask_token"),
    whole("embeddings.register_tokens", "register_tokens"),
    whole("embeddings.position_embeddings", "pos_embed"),
    whole("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    whole("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    whole("encoder.layer.{}.norm1.weight", "blocks.{}.norm1.weight"),
    whole("encoder.layer.{}.norm1.bias", "blocks.{}.norm1.bias"),
    part("encoder.layer.{}.attention.attention.query.weight", QKV_WEIGHT, 0),
    part("encoder.layer.{}.attention.attention.key.weight", QKV_WEIGHT, 1),
    part("encoder.layer.{}.attention.attention.value.weight", QKV_WEIGHT, 2),
    part("encoder.layer.{}.attention.attention.query.bias", QKV_BIAS, 0),
    part("encoder.layer.{}.attention.attention.key.bias", QKV_BIAS, 1),
    part("encoder.layer.{}.attention.attention.value.bias", QKV_BIAS, 2),
    whole("encoder.layer.{}.attention.output.dense.weight", "blocks.{}.attn.proj.weight"),
    whole("encoder.layer.{}.attention.output.dense.bias", "blocks.{}.attn.proj.bias"),
    whole("encoder.layer.{}.layer_scale1.lambda1", "blocks.{}.ls1.gamma"),
    whole("encoder.layer.{}.norm2.weight", "blocks.{}.norm2.weight"),
    whole("encoder.layer.{}.norm2.bias", "blocks.{}.norm2.bias"),
    whole("encoder.layer.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.weight"),
    whole("encoder.layer.{}.mlp.fc1.bias", "blocks.{}.mlp.fc1.bias"),
    whole("encoder.layer.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.weight"),
    whole("encoder.layer.{}.mlp.fc2.bias", "blocks.{}.mlp.fc2.bias"),
    whole("encoder.layer.{}.mlp.weights_in.weight", "blocks.{}.mlp.w12.weight"),
    whole("encoder.layer.{}.mlp.weights_in.bias", "blocks.{}.mlp.w12.bias"),
    whole("encoder.layer.{}.mlp.weights_out.weight", "blocks.{}.mlp.w3.weight"),
    whole("encoder.layer.{}.mlp.weights_out.bias", "blocks.{}.mlp.w3.bias"),
    whole("encoder.layer.{}.layer_scale2.lambda1", "blocks.{}.ls2.gamma"),
    whole("layernorm.weight", "norm.weight"),
    whole("layernorm.bias", "norm.bias"),
];

/// The tensors of a DINOv2 backbone under its authors' names. Tensors without the prefix of `known`
/// belong to a head and are dropped. Names without a rule do not change; the network refuses them.
///
/// # Errors
/// Queries without their keys or values, or with shapes that do not match.
pub fn own_names(dict: StateDict, known: &Known) -> Result<StateDict> {
    let dict = dict.renamed(known.prefix, "");
    if known.names != HUGGING_FACE {
        return Ok(dict);
    }
    let mut ours = dict.emptied();
    let mut stacks = std::collections::BTreeMap::<String, [Option<(String, Stored)>; PARTS]>::new();
    for (name, tensor) in dict {
        let rule = RULES.iter().find_map(|rule| Some((rule, number(rule.0, &name)?)));
        match rule {
            None => ours.insert(name, tensor),
            Some((Rule(_, to, None), n)) => ours.insert(at(to, n), tensor),
            Some((Rule(_, to, Some(i)), n)) => {
                stacks.entry(at(to, n)).or_default()[*i] = Some((name, tensor));
            }
        }
    }
    for (to, parts) in stacks {
        let tensor = stack(&to, parts)?.map_err(|difference| ModelError::Mismatch {
            source_name: ours.origin().to_string(),
            network: "DINOv2".into(),
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
    to: &str,
    parts: [Option<(String, Stored)>; PARTS],
) -> Result<std::result::Result<Stored, String>> {
    let theirs = |i: usize| {
        let rule = RULES
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
