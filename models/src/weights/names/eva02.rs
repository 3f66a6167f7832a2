//! Names of EVA-02 weights (spec backbones §4.4).

use super::{GATED_BIAS, GATED_WEIGHT, Layout, OFFICIAL, QKV_WEIGHT, TIMM};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, half, third, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        has: &["blocks.{}.attn.q_bias", "blocks.{}.mlp.w1.weight"],
        rules: &[COMMON, AUTHORS],
        ..Layout::of(Family::Eva02, OFFICIAL)
    },
    Layout {
        has: &["blocks.{}.attn.q_proj.weight", "blocks.{}.mlp.fc1_g.weight"],
        rules: &[COMMON, IMAGE_MODELS],
        ..Layout::of(Family::Eva02, TIMM)
    },
];

const COMMON: &[Rule] = &[
    third("blocks.{}.attn.q_proj.weight", QKV_WEIGHT, 0),
    third("blocks.{}.attn.k_proj.weight", QKV_WEIGHT, 1),
    third("blocks.{}.attn.v_proj.weight", QKV_WEIGHT, 2),
    unused("mask_token"),
    unused("norm.*"),
    unused("lm_head.*"),
    unused("rope.*"),
    unused("blocks.{}.attn.rope.freqs_cos"),
    unused("blocks.{}.attn.rope.freqs_sin"),
];

const AUTHORS: &[Rule] = &[
    half("blocks.{}.mlp.w1.weight", GATED_WEIGHT, 0),
    half("blocks.{}.mlp.w2.weight", GATED_WEIGHT, 1),
    half("blocks.{}.mlp.w1.bias", GATED_BIAS, 0),
    half("blocks.{}.mlp.w2.bias", GATED_BIAS, 1),
];

const IMAGE_MODELS: &[Rule] = &[
    whole("blocks.{}.attn.q_proj.bias", "blocks.{}.attn.q_bias"),
    whole("blocks.{}.attn.v_proj.bias", "blocks.{}.attn.v_bias"),
    half("blocks.{}.mlp.fc1_g.weight", GATED_WEIGHT, 0),
    half("blocks.{}.mlp.fc1_x.weight", GATED_WEIGHT, 1),
    half("blocks.{}.mlp.fc1_g.bias", GATED_BIAS, 0),
    half("blocks.{}.mlp.fc1_x.bias", GATED_BIAS, 1),
    whole("blocks.{}.mlp.norm.weight", "blocks.{}.mlp.ffn_ln.weight"),
    whole("blocks.{}.mlp.norm.bias", "blocks.{}.mlp.ffn_ln.bias"),
    whole("blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.w3.weight"),
    whole("blocks.{}.mlp.fc2.bias", "blocks.{}.mlp.w3.bias"),
    unused("fc_norm.*"),
    unused("head.*"),
];
