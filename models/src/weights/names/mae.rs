//! Names of the encoder of MAE, and of plain vision transformers (spec backbones §4.3).

use super::{HUGGING_FACE, HUGGING_FACE_VIT, Layout, OFFICIAL, OPEN_MMLAB};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        has: &["blocks.{}.attn.qkv.bias", "blocks.{}.mlp.fc1.weight"],
        any: &["cls_token", "pos_embed"],
        lacks: &["blocks.{}.ls1.gamma", "blocks.{}.ls2.gamma", "blocks.{}.gamma_1"],
        rules: &[AUTHORS],
        ..Layout::of(Family::Mae, OFFICIAL)
    },
    Layout {
        prefixes: &["backbone.", "vit.", ""],
        has: &["encoder.layer.{}.layernorm_before.weight"],
        any: &["embeddings.cls_token", "embeddings.position_embeddings"],
        lacks: &["encoder.layer.{}.layer_scale1.lambda1", "encoder.layer.{}.lambda_1"],
        blocks: &["encoder.layer.{}.layernorm_before.weight"],
        patch: "embeddings.patch_embeddings.projection.weight",
        positions: "embeddings.position_embeddings",
        rules: &[HUGGING_FACE_VIT, TRANSFORMERS],
        ..Layout::of(Family::Mae, HUGGING_FACE)
    },
    // A BEiT: it has relative positions, for which there is no network.
    Layout {
        has: &[
            "layers.{}.attn.relative_position_bias_table",
            "layers.{}.attn.qkv.bias",
            "pos_embed",
        ],
        blocks: &["layers.{}.ln1.weight"],
        patch: "patch_embed.projection.weight",
        ..Layout::of(Family::Mae, OPEN_MMLAB)
    },
];

const AUTHORS: &[Rule] =
    &[unused("mask_token"), unused("decoder_*"), unused("decoder.*"), unused("head.*")];

const TRANSFORMERS: &[Rule] = &[
    whole("encoder.layer.{}.layernorm_before.weight", "blocks.{}.norm1.weight"),
    whole("encoder.layer.{}.layernorm_before.bias", "blocks.{}.norm1.bias"),
    whole("encoder.layer.{}.layernorm_after.weight", "blocks.{}.norm2.weight"),
    whole("encoder.layer.{}.layernorm_after.bias", "blocks.{}.norm2.bias"),
    whole("encoder.layer.{}.intermediate.dense.weight", "blocks.{}.mlp.fc1.weight"),
    whole("encoder.layer.{}.intermediate.dense.bias", "blocks.{}.mlp.fc1.bias"),
    whole("encoder.layer.{}.output.dense.weight", "blocks.{}.mlp.fc2.weight"),
    whole("encoder.layer.{}.output.dense.bias", "blocks.{}.mlp.fc2.bias"),
    unused("embeddings.mask_token"),
    unused("decoder.*"),
];
