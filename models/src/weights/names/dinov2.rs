//! Names of DINOv2 weights (spec backbones §4.1). The network uses those of the authors.

use super::{HUGGING_FACE, HUGGING_FACE_VIT, Layout, OFFICIAL};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout {
        has: &["blocks.{}.ls1.gamma", "patch_embed.proj.bias"],
        ..Layout::of(Family::Dinov2, OFFICIAL)
    },
    Layout {
        prefixes: &["backbone.", "dinov2.", "dinov2_with_registers.", ""],
        has: &["encoder.layer.{}.layer_scale1.lambda1"],
        any: &["embeddings.cls_token", "embeddings.position_embeddings"],
        blocks: &["encoder.layer.{}.norm1.weight"],
        patch: "embeddings.patch_embeddings.projection.weight",
        positions: "embeddings.position_embeddings",
        registers: "embeddings.register_tokens",
        rules: &[HUGGING_FACE_VIT, RULES],
        ..Layout::of(Family::Dinov2, HUGGING_FACE)
    },
];

const RULES: &[Rule] = &[
    whole("embeddings.mask_token", "mask_token"),
    whole("embeddings.register_tokens", "register_tokens"),
    whole("encoder.layer.{}.norm1.weight", "blocks.{}.norm1.weight"),
    whole("encoder.layer.{}.norm1.bias", "blocks.{}.norm1.bias"),
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
];
