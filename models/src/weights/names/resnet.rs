//! Names of ResNets (spec backbones §4.6). Networks have OpenMMLab's names, which beside the stem are
//! torchvision's.

use super::{Layout, OPEN_MMLAB, TIMM, TORCHVISION};
use crate::weights::families::Family;
use crate::weights::renaming::{Rule, unused, whole};

pub(super) const LAYOUTS: &[Layout] = &[
    resnet(TORCHVISION, &["conv1.weight", "layer1.{}.conv3.weight"], &[CLASSIFIER]),
    resnet(OPEN_MMLAB, &["stem.{}.weight", "layer1.{}.conv3.weight"], &[CLASSIFIER]),
    resnet(TIMM, &["conv1.{}.weight", "layer1.{}.conv3.weight"], &[TIMM_STEM, CLASSIFIER]),
];

/// A ResNet; sources differ in the names of its stem.
const fn resnet(
    names: &'static str,
    has: &'static [&'static str],
    rules: &'static [&'static [Rule]],
) -> Layout {
    Layout {
        has,
        blocks: &[
            "layer1.{}.conv3.weight",
            "layer2.{}.conv3.weight",
            "layer3.{}.conv3.weight",
            "layer4.{}.conv3.weight",
        ],
        patch: "",
        positions: "",
        rules,
        ..Layout::of(Family::ResNet, names)
    }
}

const CLASSIFIER: &[Rule] = &[unused("fc.*")];

/// The last norm of the stem has a name of its own.
const TIMM_STEM: &[Rule] = &[
    whole("conv1.{}.weight", "stem.{}.weight"),
    whole("conv1.{}.bias", "stem.{}.bias"),
    whole("conv1.{}.running_mean", "stem.{}.running_mean"),
    whole("conv1.{}.running_var", "stem.{}.running_var"),
    whole("bn1.weight", "stem.7.weight"),
    whole("bn1.bias", "stem.7.bias"),
    whole("bn1.running_mean", "stem.7.running_mean"),
    whole("bn1.running_var", "stem.7.running_var"),
];
