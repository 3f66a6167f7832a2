//! Names of ConvNeXt weights (spec backbones §4.7). Networks have OpenMMLab's names.

use super::{Layout, OFFICIAL, OPEN_MMLAB, TIMM};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    Layout { has: &["stages.0.{}.dwconv.weight"], rules: AUTHORS, ..convnext(OFFICIAL) },
    Layout {
        has: &["stages.0.{}.depthwise_conv.weight"],
        rules: &[&[unused("head.*")]],
        ..convnext(OPEN_MMLAB)
    },
    Layout {
        has: &["stages.0.blocks.{}.conv_dw.weight"],
        blocks: &[
            "stages.0.blocks.{}.gamma",
            "stages.1.blocks.{}.gamma",
            "stages.2.blocks.{}.gamma",
            "stages.3.blocks.{}.gamma",
        ],
        rules: TIMM_RULES,
        ..convnext(TIMM)
    },
];

const fn convnext(names: &'static str) -> Layout {
    Layout {
        blocks: &[
            "stages.0.{}.gamma",
            "stages.1.{}.gamma",
            "stages.2.{}.gamma",
            "stages.3.{}.gamma",
        ],
        patch: "",
        positions: "",
        ..Layout::of(Family::ConvNeXt, names)
    }
}

/// Names of the blocks of one stage: theirs before and after the number of the block, and ours.
macro_rules! stage {
    ($stage:literal, $inside:literal, $(($theirs:literal, $ours:literal)),* $(,)?) => {
        &[$(whole(
            concat!("stages.", $stage, $inside, ".{}.", $theirs),
            concat!("stages.", $stage, ".{}.", $ours),
        )),*]
    };
}

macro_rules! authors {
    ($stage:literal) => {
        stage!(
            $stage,
            "",
            ("dwconv.weight", "depthwise_conv.weight"),
            ("dwconv.bias", "depthwise_conv.bias"),
            ("pwconv1.weight", "pointwise_conv1.weight"),
            ("pwconv1.bias", "pointwise_conv1.bias"),
            ("pwconv2.weight", "pointwise_conv2.weight"),
            ("pwconv2.bias", "pointwise_conv2.bias"),
        )
    };
}

const AUTHORS: &[&[Rule]] = &[
    authors!("0"),
    authors!("1"),
    authors!("2"),
    authors!("3"),
    &[whole("norm.weight", "norm3.weight"), whole("norm.bias", "norm3.bias"), unused("head.*")],
];

macro_rules! timm {
    ($stage:literal) => {
        stage!(
            $stage,
            ".blocks",
            ("gamma", "gamma"),
            ("conv_dw.weight", "depthwise_conv.weight"),
            ("conv_dw.bias", "depthwise_conv.bias"),
            ("norm.weight", "norm.weight"),
            ("norm.bias", "norm.bias"),
            ("mlp.fc1.weight", "pointwise_conv1.weight"),
            ("mlp.fc1.bias", "pointwise_conv1.bias"),
            ("mlp.fc2.weight", "pointwise_conv2.weight"),
            ("mlp.fc2.bias", "pointwise_conv2.bias"),
        )
    };
}

const TIMM_RULES: &[&[Rule]] = &[
    timm!("0"),
    timm!("1"),
    timm!("2"),
    timm!("3"),
    &[
        whole("stem.0.weight", "downsample_layers.0.0.weight"),
        whole("stem.0.bias", "downsample_layers.0.0.bias"),
        whole("stem.1.weight", "downsample_layers.0.1.weight"),
        whole("stem.1.bias", "downsample_layers.0.1.bias"),
        whole("stages.{}.downsample.0.weight", "downsample_layers.{}.0.weight"),
        whole("stages.{}.downsample.0.bias", "downsample_layers.{}.0.bias"),
        whole("stages.{}.downsample.1.weight", "downsample_layers.{}.1.weight"),
        whole("stages.{}.downsample.1.bias", "downsample_layers.{}.1.bias"),
        whole("head.norm.weight", "norm3.weight"),
        whole("head.norm.bias", "norm3.bias"),
        unused("head.*"),
    ],
];
