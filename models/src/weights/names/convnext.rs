//! Names of ConvNeXt weights (spec backbones §4.7).

use super::{Layout, OFFICIAL, OPEN_MMLAB, TIMM};
use crate::weights::families::Family;

pub(super) const LAYOUTS: &[Layout] = &[
    convnext(OFFICIAL, &["stages.0.{}.dwconv.weight"], STAGES),
    convnext(OPEN_MMLAB, &["stages.0.{}.depthwise_conv.weight"], STAGES),
    convnext(
        TIMM,
        &["stages.0.blocks.{}.conv_dw.weight"],
        &[
            "stages.0.blocks.{}.gamma",
            "stages.1.blocks.{}.gamma",
            "stages.2.blocks.{}.gamma",
            "stages.3.blocks.{}.gamma",
        ],
    ),
];

const STAGES: &[&str] =
    &["stages.0.{}.gamma", "stages.1.{}.gamma", "stages.2.{}.gamma", "stages.3.{}.gamma"];

const fn convnext(
    names: &'static str,
    has: &'static [&'static str],
    blocks: &'static [&'static str],
) -> Layout {
    Layout { has, blocks, patch: "", positions: "", ..Layout::of(Family::ConvNeXt, names) }
}
