//! Recognition of published backbones by a few names and shapes (spec backbones §1.1, §4). The
//! names are in `names`.

use std::collections::BTreeMap;

use super::StateDict;
use super::names::{self, Layout};
use super::renaming::{Rule, number};
use crate::backbone::{
    BackboneConfig, ConvNextConfig, PUBLISHED, Published, ResNetConfig, Stem, VitConfig,
};

/// A family of published backbones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// DINOv2, with or without registers.
    Dinov2,
    /// DINOv3, always with registers.
    Dinov3,
    /// Image tower of CLIP.
    Clip,
    /// Encoder of MAE, and plain ViTs, whose names are the same.
    Mae,
    /// EVA-02.
    Eva02,
    /// Image encoder of SAM.
    Sam,
    /// ResNet with bottlenecks.
    ResNet,
    /// ConvNeXt.
    ConvNeXt,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Dinov2 => "DINOv2",
            Family::Dinov3 => "DINOv3",
            Family::Clip => "CLIP",
            Family::Mae => "MAE",
            Family::Eva02 => "EVA-02",
            Family::Sam => "SAM",
            Family::ResNet => "ResNet",
            Family::ConvNeXt => "ConvNeXt",
        })
    }
}

/// First layer of a gated MLP under the names of all sources.
const GATES: &[&str] = &[
    "blocks.{}.mlp.w1.weight",
    "blocks.{}.mlp.w12.weight",
    "blocks.{}.mlp.fc1_g.weight",
    "layer.{}.mlp.gate_proj.weight",
    "encoder.layer.{}.mlp.weights_in.weight",
];

/// A published backbone, recognised by names and shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Family.
    pub family: Family,
    /// Source of the tensor names.
    pub names: &'static str,
    /// Prefix of its names; tensors without it belong to something else.
    pub prefix: &'static str,
    /// Channels, of the first stage if there are several.
    pub width: usize,
    /// Blocks of each stage; one stage for transformers.
    pub blocks: Vec<usize>,
    /// Side of a patch in pixels; 0 without patches.
    pub patch: usize,
    /// Side of the position table in patches; 0 if there is none or it is not square.
    pub grid: usize,
    /// Register tokens.
    pub registers: usize,
    /// Whether MLPs are gated (SwiGLU).
    pub gated: bool,
    /// Conversion of the names to those of the network.
    pub(super) rules: &'static [&'static [Rule]],
}

/// The known backbone in a dictionary.
pub fn recognise(dict: &StateDict) -> Option<Known> {
    recognise_shapes(&dict.shapes())
}

/// As [`recognise`], from names and shapes alone.
pub fn recognise_shapes(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Known> {
    let read = |layout: &Layout| layout.prefixes.iter().find_map(|p| layout.read(shapes, p));
    names::all().find_map(read)
}

impl Layout {
    fn read(&self, shapes: &BTreeMap<String, Vec<usize>>, prefix: &'static str) -> Option<Known> {
        let own = || shapes.keys().filter_map(|name| name.strip_prefix(prefix));
        let any = |pattern: &&&str| own().any(|name| number(pattern, name).is_some());
        let one = self.any.is_empty() || self.any.iter().any(|p| any(&p));
        if !one || !self.has.iter().all(|p| any(&p)) || self.lacks.iter().any(|p| any(&p)) {
            return None;
        }
        let shape = |name: &str| shapes.get(&format!("{prefix}{name}"));
        let count = |p: &&str| own().filter_map(|name| number(p, name)).max().map_or(0, |n| n + 1);
        let first = self.blocks.first()?;
        let width = own().find(|name| number(first, name).is_some());
        let patch = shape(self.patch).and_then(|s| s.get(2));
        let registers = shape(self.registers).and_then(|s| s.get(1).copied());
        Some(Known {
            family: self.family,
            names: self.names,
            prefix,
            width: width.and_then(|name| shape(name)?.first().copied())?,
            blocks: self.blocks.iter().map(count).collect(),
            patch: patch.copied().unwrap_or(0),
            grid: shape(self.positions).map_or(0, |s| grid(s)),
            registers: registers.unwrap_or(0),
            gated: GATES.iter().any(|gate| any(&gate)),
            rules: self.rules,
        })
    }
}

/// Side of a square position table. The table is a map `[1, g, g, c]`, or rows `[.., g*g, c]` with
/// or without one for the class token.
fn grid(shape: &[usize]) -> usize {
    let rows = match *shape {
        [1, h, w, _] if h == w => return h,
        [1, n, _] | [n, _] => n,
        _ => return 0,
    };
    let side = rows.isqrt();
    let behind_class = rows.saturating_sub(1).isqrt();
    match rows {
        _ if behind_class * behind_class + 1 == rows => behind_class,
        _ if side * side == rows => side,
        _ => 0,
    }
}

impl Known {
    /// Letter or number of a published size; `None` for any other.
    pub fn size(&self) -> Option<&'static str> {
        let plus = self.family == Family::Dinov3 && self.gated;
        let transformer = || match (self.width, self.blocks.as_slice()) {
            (384, [12]) if plus => Some("S+"),
            (384, [12]) => Some("S"),
            (768, [12]) => Some("B"),
            (1024, [24]) if plus => Some("L+"),
            (1024, [24]) => Some("L"),
            (1280, [32]) if plus => Some("H+"),
            (1280, [32]) => Some("H"),
            (1536, [40]) => Some("g"),
            (4096, [40]) => Some("7B"),
            _ => None,
        };
        match self.family {
            Family::ResNet => match self.blocks.as_slice() {
                [3, 4, 6, 3] => Some("50"),
                [3, 4, 23, 3] => Some("101"),
                [3, 8, 36, 3] => Some("152"),
                _ => None,
            },
            Family::ConvNeXt => match (self.width, self.blocks.as_slice()) {
                (96, [3, 3, 9, 3]) => Some("T"),
                (96, [3, 3, 27, 3]) => Some("S"),
                (128, [3, 3, 27, 3]) => Some("B"),
                (192, [3, 3, 27, 3]) => Some("L"),
                (256, [3, 3, 27, 3]) => Some("XL"),
                _ => None,
            },
            _ => transformer(),
        }
    }

    /// Whether networks of this family can be built.
    pub fn has_network(&self) -> bool {
        PUBLISHED.iter().any(|published| published.family == self.family)
    }

    /// Sizes and parts of a network for it, if one can be built. The number of heads is a guess
    /// unless the sizes are published.
    pub fn config(&self) -> Option<BackboneConfig> {
        Some(match &self.closest()?.config {
            BackboneConfig::Vit(vit) => BackboneConfig::Vit(VitConfig {
                embed_dim: self.width,
                depth: *self.blocks.first()?,
                registers: self.registers,
                ..vit.clone()
            }),
            BackboneConfig::ConvNext(_) => {
                let depths = self.blocks[..].try_into().ok()?;
                BackboneConfig::ConvNext(ConvNextConfig::doubling(self.width, depths))
            }
            BackboneConfig::ResNet(resnet) => {
                let depths = self.blocks[..].try_into().ok()?;
                let width = self.width * resnet.widths[0] / resnet.stages()[0].width;
                BackboneConfig::ResNet(ResNetConfig::doubling(self.stem(), width, depths))
            }
        })
    }

    /// First layers of a ResNet, which the source of the names decides.
    pub(super) fn stem(&self) -> Stem {
        if self.names == names::TORCHVISION { Stem::Single } else { Stem::Deep }
    }

    /// The published backbone of this family that is most like it.
    pub fn closest(&self) -> Option<&'static Published> {
        let family = || PUBLISHED.iter().filter(|published| published.family == self.family);
        self.published().or(family().find(|p| self.has_mlps_of(p))).or(family().next())
    }

    /// Value of `model.backbone` for this backbone, if it is a published one that can be built.
    pub fn recipe_name(&self) -> Option<&'static str> {
        self.published().map(|published| published.name)
    }

    /// The published backbone with these sizes; among several the one with the same form of MLPs.
    pub(super) fn published(&self) -> Option<&'static Published> {
        let same = |p: &&Published| p.family == self.family && self.has_sizes(&p.config);
        let all = || PUBLISHED.iter().filter(same);
        all().find(|p| self.has_mlps_of(p)).or_else(|| all().next())
    }

    fn has_mlps_of(&self, published: &Published) -> bool {
        published.config.vit().is_some_and(|vit| vit.ffn.gated()) == self.gated
    }

    /// Whether these are the blocks of each stage and the channels of the first.
    pub(super) fn has_sizes(&self, config: &BackboneConfig) -> bool {
        let stages = config.stages();
        let width = stages.first().map(|stage| stage.width);
        width == Some(self.width) && stages.iter().map(|stage| stage.blocks).eq(self.blocks.clone())
    }

    /// Usual name, such as `DINOv2 ViT-L/14`.
    pub fn title(&self) -> String {
        let (width, blocks) = (self.width, &self.blocks);
        let size = self.size();
        let vit = match size {
            Some(size) => format!("ViT-{size}/{}", self.patch),
            None => {
                let n = blocks.first().copied().unwrap_or(0);
                format!("ViT of {n} blocks of {width} channels, patch {}", self.patch)
            }
        };
        let stages = |name: &str| match size {
            Some(size) => format!("{name}-{size}"),
            None => format!("{name} of {blocks:?} blocks"),
        };
        let family = self.family.to_string();
        match (self.family, self.registers) {
            (Family::ResNet | Family::ConvNeXt, _) => stages(&family),
            (Family::Clip, _) => format!("{family} {vit} (image tower)"),
            (Family::Sam, _) => format!("{family} {vit} (image encoder)"),
            (Family::Dinov2, n) if n > 0 => format!("{family} {vit} with {n} registers"),
            _ => format!("{family} {vit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_a_number_and_nothing_else() {
        assert_eq!(number("blocks.{}.norm1.weight", "blocks.12.norm1.weight"), Some(12));
        for name in ["blocks..norm1.weight", "blocks.+1.norm1.weight", "blocks.a.norm1.weight"] {
            assert_eq!(number("blocks.{}.norm1.weight", name), None, "{name}");
        }
        assert_eq!(number("cls_token", "cls_token"), Some(0));
        assert_eq!(number("cls_token", "cls_tokens"), None);
    }

    #[test]
    fn sides_of_position_tables() {
        for (shape, side) in [
            (&[1, 1370, 1024][..], 37),
            (&[257, 1024], 16),
            (&[1, 64, 64, 1280], 64),
            (&[1, 196, 768], 14),
            (&[1, 2, 8], 1),
            (&[1, 15, 8], 0),
            (&[1, 4, 5, 8], 0),
            (&[7], 0),
        ] {
            assert_eq!(grid(shape), side, "{shape:?}");
        }
    }
}
