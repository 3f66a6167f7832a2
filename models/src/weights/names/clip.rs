//! Names of the image tower of CLIP (spec backbones §4.2).

use super::{HUGGING_FACE, Layout, OFFICIAL, QKV_BIAS, QKV_WEIGHT};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, third, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        prefixes: &["backbone.", "visual.", ""],
        has: &["transformer.resblocks.{}.attn.in_proj_weight"],
        any: &["class_embedding", "conv1.weight"],
        blocks: &["transformer.resblocks.{}.ln_1.weight"],
        patch: "conv1.weight",
        positions: "positional_embedding",
        rules: &[AUTHORS],
        ..Layout::of(Family::Clip, OFFICIAL)
    },
    Layout {
        prefixes: &["backbone.", "vision_model.", ""],
        has: &["encoder.layers.{}.self_attn.q_proj.weight"],
        any: &["pre_layrnorm.weight", "embeddings.class_embedding"],
        blocks: &["encoder.layers.{}.layer_norm1.weight"],
        patch: "embeddings.patch_embedding.weight",
        positions: "embeddings.position_embedding.weight",
        rules: &[TRANSFORMERS],
        ..Layout::of(Family::Clip, HUGGING_FACE)
    },
];

const AUTHORS: &[Rule] = &[
    whole("class_embedding", "cls_token"),
    whole("positional_embedding", "pos_embed"),
    whole("conv1.weight", "patch_embed.proj.weight"),
    whole("ln_pre.weight", "pre_norm.weight"),
    whole("ln_pre.bias", "pre_norm.bias"),
    whole("transformer.resblocks.{}.ln_1.weight", "blocks.{}.norm1.weight"),
    whole("transformer.resblocks.{}.ln_1.bias", "blocks.{}.norm1.bias"),
    whole("transformer.resblocks.{}.attn.in_proj_weight", QKV_WEIGHT),
    whole("transformer.resblocks.{}.attn.in_proj_bias", QKV_BIAS),
    whole("transformer.resblocks.{}.attn.out_proj.weight", "blocks.{}.attn.proj.weight"),
    whole("transformer.resblocks.{}.attn.out_proj.bias", "blocks.{}.attn.proj.bias"),
    whole("transformer.resblocks.{}.ln_2.weight", "blocks.{}.norm2.weight"),
    whole("transformer.resblocks.{}.ln_2.bias", "blocks.{}.norm2.bias"),
    whole("transformer.resblocks.{}.mlp.c_fc.weight", "blocks.{}.mlp.fc1.weight"),
    whole("transformer.resblocks.{}.mlp.c_fc.bias", "blocks.{}.mlp.fc1.bias"),
    whole("transformer.resblocks.{}.mlp.c_proj.weight", "blocks.{}.mlp.fc2.weight"),
    whole("transformer.resblocks.{}.mlp.c_proj.bias", "blocks.{}.mlp.fc2.bias"),
    unused("ln_post.*"),
    unused("proj"),
];

const TRANSFORMERS: &[Rule] = &[
    whole("embeddings.class_embedding", "cls_token"),
    whole("embeddings.position_embedding.weight", "pos_embed"),
    whole("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
    whole("pre_layrnorm.weight", "pre_norm.weight"),
    whole("pre_layrnorm.bias", "pre_norm.bias"),
    whole("encoder.layers.{}.layer_norm1.weight", "blocks.{}.norm1.weight"),
    whole("encoder.layers.{}.layer_norm1.bias", "blocks.{}.norm1.bias"),
    third("encoder.layers.{}.self_attn.q_proj.weight", QKV_WEIGHT, 0),
    third("encoder.layers.{}.self_attn.k_proj.weight", QKV_WEIGHT, 1),
    third("encoder.layers.{}.self_attn.v_proj.weight", QKV_WEIGHT, 2),
    third("encoder.layers.{}.self_attn.q_proj.bias", QKV_BIAS, 0),
    third("encoder.layers.{}.self_attn.k_proj.bias", QKV_BIAS, 1),
    third("encoder.layers.{}.self_attn.v_proj.bias", QKV_BIAS, 2),
    whole("encoder.layers.{}.self_attn.out_proj.weight", "blocks.{}.attn.proj.weight"),
    whole("encoder.layers.{}.self_attn.out_proj.bias", "blocks.{}.attn.proj.bias"),
    whole("encoder.layers.{}.layer_norm2.weight", "blocks.{}.norm2.weight"),
    whole("encoder.layers.{}.layer_norm2.bias", "blocks.{}.norm2.bias"),
    whole("encoder.layers.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.weight"),
    whole("encoder.layers.{}.mlp.fc1.bias", "blocks.{}.mlp.fc1.bias"),
    whole("encoder.layers.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.weight"),
    whole("encoder.layers.{}.mlp.fc2.bias", "blocks.{}.mlp.fc2.bias"),
    unused("embeddings.position_ids"),
    unused("post_layernorm.*"),
    // Beside the tower if its names have no prefix.
    unused("text_model.*"),
    unused("visual_projection.weight"),
    unused("text_projection.weight"),
    unused("logit_scale"),
];
