//! Names of the encoder of MAE, and of plain vision transformers (spec backbones §4.3).

use super::{HUGGING_FACE, Layout, OFFICIAL, OPEN_MMLAB, QKV_BIAS, QKV_WEIGHT};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, third, unused, whole};

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
        rules: &[TRANSFORMERS],
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
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.position_embeddings", "pos_embed"),
    whole("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    whole("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    whole("encoder.layer.{}.layernorm_before.weight", "blocks.{}.norm1.weight"),
    whole("encoder.layer.{}.layernorm_before.bias", "blocks.{}.norm1.bias"),
    third("encoder.layer.{}.attention.attention.query.weight", QKV_WEIGHT, 0),
    third("encoder.layer.{}.attention.attention.key.weight", QKV_WEIGHT, 1),
    third("encoder.layer.{}.attention.attention.value.weight", QKV_WEIGHT, 2),
    third("encoder.layer.{}.attention.attention.query.bias", QKV_BIAS, 0),
    third("encoder.layer.{}.attention.attention.key.bias", QKV_BIAS, 1),
    third("encoder.layer.{}.attention.attention.value.bias", QKV_BIAS, 2),
    whole("encoder.layer.{}.attention.output.dense.weight", "blocks.{}.attn.proj.weight"),
    whole("encoder.layer.{}.attention.output.dense.bias", "blocks.{}.attn.proj.bias"),
    whole("encoder.layer.{}.layernorm_after.weight", "blocks.{}.norm2.weight"),
    whole("encoder.layer.{}.layernorm_after.bias", "blocks.{}.norm2.bias"),
    whole("encoder.layer.{}.intermediate.dense.weight", "blocks.{}.mlp.fc1.weight"),
    whole("encoder.layer.{}.intermediate.dense.bias", "blocks.{}.mlp.fc1.bias"),
    whole("encoder.layer.{}.output.dense.weight", "blocks.{}.mlp.fc2.weight"),
    whole("encoder.layer.{}.output.dense.bias", "blocks.{}.mlp.fc2.bias"),
    whole("layernorm.weight", "norm.weight"),
    whole("layernorm.bias", "norm.bias"),
    unused("embeddings.mask_token"),
    unused("decoder.*"),
];
