//! Names of tensors in published files, one file per family (spec backbones §4, dinov3 §4).

mod clip;
mod convnext;
mod dinov2;
mod dinov3;
mod eva02;
mod mae;
mod resnet;
mod sam;

use super::families::Family;
use super::renaming::{Rule, third, whole};

/// Tensor names of one family from one source. In patterns `{}` is a number.
pub(super) struct Layout {
    pub family: Family,
    /// Source of the names.
    pub names: &'static str,
    /// Possible prefixes of every name, the most specific first.
    pub prefixes: &'static [&'static str],
    /// Names that must all be present.
    pub has: &'static [&'static str],
    /// Names of which one must be present, if there are any here. A file that lacks one tensor is
    /// still recognised, so that its name can be told.
    pub any: &'static [&'static str],
    /// Names that must all be absent.
    pub lacks: &'static [&'static str],
    /// A name in each block, one pattern per stage. The first axis is the stage's width.
    pub blocks: &'static [&'static str],
    /// Patch kernel `[c, 3, p, p]`.
    pub patch: &'static str,
    /// Position table.
    pub positions: &'static str,
    /// Register tokens `[1, n, c]`.
    pub registers: &'static str,
    /// Names of the family's network; empty if it uses these.
    pub rules: &'static [&'static [Rule]],
}

impl Layout {
    /// A vision transformer with the names that most of their authors use.
    const fn of(family: Family, names: &'static str) -> Layout {
        Layout {
            family,
            names,
            prefixes: &["backbone.", ""],
            has: &[],
            any: &[],
            lacks: &[],
            blocks: &["blocks.{}.norm1.weight"],
            patch: "patch_embed.proj.weight",
            positions: "pos_embed",
            registers: "register_tokens",
            rules: &[],
        }
    }
}

/// The names of the family's first publication.
pub(super) const OFFICIAL: &str = "its authors' names";
/// The names of the transformers library.
const HUGGING_FACE: &str = "Hugging Face's names";
const TIMM: &str = "timm's names";
const OPEN_MMLAB: &str = "OpenMMLab's names";
/// The names of ResNets with a 7x7 stem.
pub(super) const TORCHVISION: &str = "torchvision's names";

/// Packed layer of queries, keys and values in the network.
const QKV_WEIGHT: &str = "blocks.{}.attn.qkv.weight";
const QKV_BIAS: &str = "blocks.{}.attn.qkv.bias";
/// Packed layer of gate and value in the network.
const GATED_WEIGHT: &str = "blocks.{}.mlp.w12.weight";
const GATED_BIAS: &str = "blocks.{}.mlp.w12.bias";

/// What files of plain ViTs and DINOv2 have in common in the transformers library.
const HUGGING_FACE_VIT: &[Rule] = &[
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.position_embeddings", "pos_embed"),
    whole("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    whole("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    third("encoder.layer.{}.attention.attention.query.weight", QKV_WEIGHT, 0),
    third("encoder.layer.{}.attention.attention.key.weight", QKV_WEIGHT, 1),
    third("encoder.layer.{}.attention.attention.value.weight", QKV_WEIGHT, 2),
    third("encoder.layer.{}.attention.attention.query.bias", QKV_BIAS, 0),
    third("encoder.layer.{}.attention.attention.key.bias", QKV_BIAS, 1),
    third("encoder.layer.{}.attention.attention.value.bias", QKV_BIAS, 2),
    whole("encoder.layer.{}.attention.output.dense.weight", "blocks.{}.attn.proj.weight"),
    whole("encoder.layer.{}.attention.output.dense.bias", "blocks.{}.attn.proj.bias"),
    whole("layernorm.weight", "norm.weight"),
    whole("layernorm.bias", "norm.bias"),
];

/// All layouts. The first that a file has is taken.
pub(super) fn all() -> impl Iterator<Item = &'static Layout> {
    let families = [
        dinov3::LAYOUTS,
        dinov2::LAYOUTS,
        clip::LAYOUTS,
        eva02::LAYOUTS,
        sam::LAYOUTS,
        mae::LAYOUTS,
        resnet::LAYOUTS,
        convnext::LAYOUTS,
    ];
    families.into_iter().flatten()
}
