//! Names of the image encoder of SAM (spec backbones §4.5).

use super::{HUGGING_FACE, Layout, OFFICIAL, QKV_BIAS, QKV_WEIGHT};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        prefixes: &["backbone.", "image_encoder.", ""],
        has: &["blocks.{}.attn.rel_pos_h", "blocks.{}.mlp.lin1.weight"],
        rules: &[AUTHORS],
        ..Layout::of(Family::Sam, OFFICIAL)
    },
    Layout {
        prefixes: &["backbone.", "vision_encoder.", ""],
        has: &["layers.{}.attn.rel_pos_h", "layers.{}.mlp.lin1.weight"],
        blocks: &["layers.{}.layer_norm1.weight"],
        patch: "patch_embed.projection.weight",
        rules: &[TRANSFORMERS],
        ..Layout::of(Family::Sam, HUGGING_FACE)
    },
];

const AUTHORS: &[Rule] = &[
    whole("blocks.{}.mlp.lin1.weight", "blocks.{}.mlp.fc1.weight"),
    whole("blocks.{}.mlp.lin1.bias", "blocks.{}.mlp.fc1.bias"),
    whole("blocks.{}.mlp.lin2.weight", "blocks.{}.mlp.fc2.weight"),
    whole("blocks.{}.mlp.lin2.bias", "blocks.{}.mlp.fc2.bias"),
    unused("neck.*"),
];

const TRANSFORMERS: &[Rule] = &[
    whole("patch_embed.projection.weight", "patch_embed.proj.weight"),
    whole("patch_embed.projection.bias", "patch_embed.proj.bias"),
    whole("layers.{}.layer_norm1.weight", "blocks.{}.norm1.weight"),
    whole("layers.{}.layer_norm1.bias", "blocks.{}.norm1.bias"),
    whole("layers.{}.attn.qkv.weight", QKV_WEIGHT),
    whole("layers.{}.attn.qkv.bias", QKV_BIAS),
    whole("layers.{}.attn.proj.weight", "blocks.{}.attn.proj.weight"),
    whole("layers.{}.attn.proj.bias", "blocks.{}.attn.proj.bias"),
    whole("layers.{}.attn.rel_pos_h", "blocks.{}.attn.rel_pos_h"),
    whole("layers.{}.attn.rel_pos_w", "blocks.{}.attn.rel_pos_w"),
    whole("layers.{}.layer_norm2.weight", "blocks.{}.norm2.weight"),
    whole("layers.{}.layer_norm2.bias", "blocks.{}.norm2.bias"),
    whole("layers.{}.mlp.lin1.weight", "blocks.{}.mlp.fc1.weight"),
    whole("layers.{}.mlp.lin1.bias", "blocks.{}.mlp.fc1.bias"),
    whole("layers.{}.mlp.lin2.weight", "blocks.{}.mlp.fc2.weight"),
    whole("layers.{}.mlp.lin2.bias", "blocks.{}.mlp.fc2.bias"),
    unused("neck.*"),
];
