//! Names of DINOv3 weights (spec dinov3 §4).

use super::{GATED_BIAS, GATED_WEIGHT, HUGGING_FACE, Layout, OFFICIAL, QKV_BIAS, QKV_WEIGHT, TIMM};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, half, third, unused, whole, zero_third};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        has: &["blocks.{}.ls1.gamma"],
        any: &["storage_tokens", "rope_embed.periods"],
        lacks: &["pos_embed"],
        positions: "",
        registers: "storage_tokens",
        rules: &[AUTHORS],
        ..Layout::of(Family::Dinov3, OFFICIAL)
    },
    transformers(
        &["layer.{}.attention.q_proj.weight", "layer.{}.mlp.gate_proj.weight"],
        &[TRANSFORMERS, TRANSFORMERS_GATED],
    ),
    transformers(
        &["layer.{}.attention.q_proj.weight", "layer.{}.layer_scale1.lambda1"],
        &[TRANSFORMERS, TRANSFORMERS_MLP],
    ),
    image_models(
        &["blocks.{}.gamma_1", "blocks.{}.mlp.fc1_g.weight"],
        &[IMAGE_MODELS, IMAGE_MODELS_GATED],
    ),
    image_models(&["blocks.{}.gamma_1"], &[IMAGE_MODELS]),
];

const fn transformers(has: &'static [&'static str], rules: &'static [&'static [Rule]]) -> Layout {
    Layout {
        prefixes: &["backbone.", "model.", ""],
        has,
        lacks: &["embeddings.position_embeddings"],
        blocks: &["layer.{}.norm1.weight"],
        patch: "embeddings.patch_embeddings.weight",
        positions: "",
        registers: "embeddings.register_tokens",
        rules,
        ..Layout::of(Family::Dinov3, HUGGING_FACE)
    }
}

const fn image_models(has: &'static [&'static str], rules: &'static [&'static [Rule]]) -> Layout {
    Layout {
        has,
        // A BEiT has these.
        lacks: &["pos_embed", "blocks.{}.attn.relative_position_bias_table"],
        positions: "",
        registers: "reg_token",
        rules,
        ..Layout::of(Family::Dinov3, TIMM)
    }
}

const AUTHORS: &[Rule] = &[
    whole("storage_tokens", "register_tokens"),
    half("blocks.{}.mlp.w1.weight", GATED_WEIGHT, 0),
    half("blocks.{}.mlp.w2.weight", GATED_WEIGHT, 1),
    half("blocks.{}.mlp.w1.bias", GATED_BIAS, 0),
    half("blocks.{}.mlp.w2.bias", GATED_BIAS, 1),
    unused("mask_token"),
    unused("local_cls_norm.*"),
    unused("projectors.*"),
];

const TRANSFORMERS: &[Rule] = &[
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.register_tokens", "register_tokens"),
    whole("embeddings.patch_embeddings.weight", "patch_embed.proj.weight"),
    whole("embeddings.patch_embeddings.bias", "patch_embed.proj.bias"),
    whole("layer.{}.norm1.weight", "blocks.{}.norm1.weight"),
    whole("layer.{}.norm1.bias", "blocks.{}.norm1.bias"),
    third("layer.{}.attention.q_proj.weight", QKV_WEIGHT, 0),
    third("layer.{}.attention.k_proj.weight", QKV_WEIGHT, 1),
    third("layer.{}.attention.v_proj.weight", QKV_WEIGHT, 2),
    third("layer.{}.attention.q_proj.bias", QKV_BIAS, 0),
    zero_third(QKV_BIAS, 1),
    third("layer.{}.attention.v_proj.bias", QKV_BIAS, 2),
    whole("layer.{}.attention.o_proj.weight", "blocks.{}.attn.proj.weight"),
    whole("layer.{}.attention.o_proj.bias", "blocks.{}.attn.proj.bias"),
    whole("layer.{}.layer_scale1.lambda1", "blocks.{}.ls1.gamma"),
    whole("layer.{}.norm2.weight", "blocks.{}.norm2.weight"),
    whole("layer.{}.norm2.bias", "blocks.{}.norm2.bias"),
    whole("layer.{}.layer_scale2.lambda1", "blocks.{}.ls2.gamma"),
    unused("embeddings.mask_token"),
];

const TRANSFORMERS_GATED: &[Rule] = &[
    half("layer.{}.mlp.gate_proj.weight", GATED_WEIGHT, 0),
    half("layer.{}.mlp.gate_proj.bias", GATED_BIAS, 0),
    half("layer.{}.mlp.up_proj.weight", GATED_WEIGHT, 1),
    half("layer.{}.mlp.up_proj.bias", GATED_BIAS, 1),
    whole("layer.{}.mlp.down_proj.weight", "blocks.{}.mlp.w3.weight"),
    whole("layer.{}.mlp.down_proj.bias", "blocks.{}.mlp.w3.bias"),
];

const TRANSFORMERS_MLP: &[Rule] = &[
    whole("layer.{}.mlp.up_proj.weight", "blocks.{}.mlp.fc1.weight"),
    whole("layer.{}.mlp.up_proj.bias", "blocks.{}.mlp.fc1.bias"),
    whole("layer.{}.mlp.down_proj.weight", "blocks.{}.mlp.fc2.weight"),
    whole("layer.{}.mlp.down_proj.bias", "blocks.{}.mlp.fc2.bias"),
];

const IMAGE_MODELS: &[Rule] = &[
    whole("reg_token", "register_tokens"),
    third("blocks.{}.attn.q_bias", QKV_BIAS, 0),
    zero_third(QKV_BIAS, 1),
    third("blocks.{}.attn.v_bias", QKV_BIAS, 2),
    whole("blocks.{}.gamma_1", "blocks.{}.ls1.gamma"),
    whole("blocks.{}.gamma_2", "blocks.{}.ls2.gamma"),
];

const IMAGE_MODELS_GATED: &[Rule] = &[
    half("blocks.{}.mlp.fc1_g.weight", GATED_WEIGHT, 0),
    half("blocks.{}.mlp.fc1_x.weight", GATED_WEIGHT, 1),
    half("blocks.{}.mlp.fc1_g.bias", GATED_BIAS, 0),
    half("blocks.{}.mlp.fc1_x.bias", GATED_BIAS, 1),
    whole("blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.w3.weight"),
    whole("blocks.{}.mlp.fc2.bias", "blocks.{}.mlp.w3.bias"),
];
