//! Names of ResNets (spec backbones §4.6).

use super::Layout;
use crate::weights::families::Family;

pub(super) const LAYOUTS: &[Layout] = &[
    resnet("torchvision's names, 7x7 stem", &["conv1.weight", "layer1.{}.conv3.weight"]),
    resnet("OpenMMLab's names, V1c stem", &["stem.{}.weight", "layer1.{}.conv3.weight"]),
    resnet("timm's names, V1c stem", &["conv1.{}.weight", "layer1.{}.conv3.weight"]),
];

/// A ResNet; sources differ in the names of its stem.
const fn resnet(names: &'static str, has: &'static [&'static str]) -> Layout {
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
        ..Layout::of(Family::ResNet, names)
    }
}
