//! Recognition of published backbones by a few names and shapes. One table covers all of them (spec
//! backbones §1.1, §4).

use std::collections::BTreeMap;

use super::renaming::Rule;
use super::{StateDict, dinov2};
use crate::backbone::{PUBLISHED, Published};

/// A family of published backbones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// DINOv2, with or without registers.
    Dinov2,
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
            Family::Clip => "CLIP",
            Family::Mae => "MAE",
            Family::Eva02 => "EVA-02",
            Family::Sam => "SAM",
            Family::ResNet => "ResNet",
            Family::ConvNeXt => "ConvNeXt",
        })
    }
}

/// Tensor names of one family from one source. In patterns `{}` is a number.
struct Layout {
    family: Family,
    /// Source of the names.
    names: &'static str,
    /// Possible prefixes of every name, the most specific first.
    prefixes: &'static [&'static str],
    /// Names that must all be present.
    has: &'static [&'static str],
    /// Names that must all be absent.
    lacks: &'static [&'static str],
    /// A name in each block, one pattern per stage. The first axis is the stage's width.
    blocks: &'static [&'static str],
    /// Patch kernel `[c, 3, p, p]`.
    patch: &'static str,
    /// Position table.
    positions: &'static str,
    /// Names of the family's network; empty if it uses these.
    rules: &'static [Rule],
}

const RESNET: &[&str] = &[
    "layer1.{}.conv3.weight",
    "layer2.{}.conv3.weight",
    "layer3.{}.conv3.weight",
    "layer4.{}.conv3.weight",
];

/// A ResNet; sources differ in the names of its stem.
const fn resnet(names: &'static str, has: &'static [&'static str]) -> Layout {
    Layout {
        family: Family::ResNet,
        names,
        prefixes: &["backbone.", ""],
        has,
        lacks: &[],
        blocks: RESNET,
        patch: "",
        positions: "",
        rules: &[],
    }
}

const LAYOUTS: &[Layout] = &[
    Layout {
        family: Family::Dinov2,
        names: OFFICIAL,
        prefixes: &["backbone.", ""],
        has: &["blocks.{}.ls1.gamma", "patch_embed.proj.bias"],
        lacks: &[],
        blocks: &["blocks.{}.norm1.weight"],
        patch: "patch_embed.proj.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Dinov2,
        names: HUGGING_FACE,
        prefixes: &["backbone.", "dinov2.", "dinov2_with_registers.", ""],
        has: &["encoder.layer.{}.layer_scale1.lambda1", "embeddings.cls_token"],
        lacks: &[],
        blocks: &["encoder.layer.{}.norm1.weight"],
        patch: "embeddings.patch_embeddings.projection.weight",
        positions: "embeddings.position_embeddings",
        rules: dinov2::RULES,
    },
    Layout {
        family: Family::Clip,
        names: OFFICIAL,
        prefixes: &["backbone.", "visual.", ""],
        has: &["transformer.resblocks.{}.attn.in_proj_weight", "class_embedding", "conv1.weight"],
        lacks: &[],
        blocks: &["transformer.resblocks.{}.ln_1.weight"],
        patch: "conv1.weight",
        positions: "positional_embedding",
        rules: &[],
    },
    Layout {
        family: Family::Clip,
        names: HUGGING_FACE,
        prefixes: &["backbone.", "vision_model.", ""],
        has: &["encoder.layers.{}.self_attn.q_proj.weight", "pre_layrnorm.weight"],
        lacks: &[],
        blocks: &["encoder.layers.{}.layer_norm1.weight"],
        patch: "embeddings.patch_embedding.weight",
        positions: "embeddings.position_embedding.weight",
        rules: &[],
    },
    Layout {
        family: Family::Eva02,
        names: OFFICIAL,
        prefixes: &["backbone.", ""],
        has: &["blocks.{}.attn.q_bias", "blocks.{}.mlp.w1.weight"],
        lacks: &[],
        blocks: &["blocks.{}.norm1.weight"],
        patch: "patch_embed.proj.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Eva02,
        names: TIMM,
        prefixes: &["backbone.", ""],
        has: &["blocks.{}.attn.q_proj.weight", "blocks.{}.mlp.fc1_g.weight"],
        lacks: &[],
        blocks: &["blocks.{}.norm1.weight"],
        patch: "patch_embed.proj.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Sam,
        names: OFFICIAL,
        prefixes: &["backbone.", "image_encoder.", ""],
        has: &["blocks.{}.attn.rel_pos_h", "blocks.{}.mlp.lin1.weight"],
        lacks: &[],
        blocks: &["blocks.{}.norm1.weight"],
        patch: "patch_embed.proj.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Sam,
        names: HUGGING_FACE,
        prefixes: &["backbone.", "vision_encoder.", ""],
        has: &["layers.{}.attn.rel_pos_h", "layers.{}.mlp.lin1.weight"],
        lacks: &[],
        blocks: &["layers.{}.layer_norm1.weight"],
        patch: "patch_embed.projection.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Mae,
        names: OFFICIAL,
        prefixes: &["backbone.", ""],
        has: &["blocks.{}.attn.qkv.bias", "blocks.{}.mlp.fc1.weight", "cls_token", "pos_embed"],
        lacks: &["blocks.{}.ls1.gamma", "blocks.{}.ls2.gamma", "blocks.{}.gamma_1"],
        blocks: &["blocks.{}.norm1.weight"],
        patch: "patch_embed.proj.weight",
        positions: "pos_embed",
        rules: &[],
    },
    Layout {
        family: Family::Mae,
        names: HUGGING_FACE,
        prefixes: &["backbone.", "vit.", ""],
        has: &["encoder.layer.{}.layernorm_before.weight", "embeddings.position_embeddings"],
        lacks: &["encoder.layer.{}.layer_scale1.lambda1", "encoder.layer.{}.lambda_1"],
        blocks: &["encoder.layer.{}.layernorm_before.weight"],
        patch: "embeddings.patch_embeddings.projection.weight",
        positions: "embeddings.position_embeddings",
        rules: &[],
    },
    Layout {
        family: Family::Mae,
        names: OPEN_MMLAB,
        prefixes: &["backbone.", ""],
        has: &[
            "layers.{}.attn.relative_position_bias_table",
            "layers.{}.attn.qkv.bias",
            "pos_embed",
        ],
        lacks: &[],
        blocks: &["layers.{}.ln1.weight"],
        patch: "patch_embed.projection.weight",
        positions: "pos_embed",
        rules: &[],
    },
    resnet("torchvision's names, 7x7 stem", &["conv1.weight", "layer1.{}.conv3.weight"]),
    resnet("OpenMMLab's names, V1c stem", &["stem.{}.weight", "layer1.{}.conv3.weight"]),
    resnet("timm's names, V1c stem", &["conv1.{}.weight", "layer1.{}.conv3.weight"]),
    Layout {
        family: Family::ConvNeXt,
        names: OFFICIAL,
        prefixes: &["backbone.", ""],
        has: &["stages.0.{}.dwconv.weight"],
        lacks: &[],
        blocks: &[
            "stages.0.{}.gamma",
            "stages.1.{}.gamma",
            "stages.2.{}.gamma",
            "stages.3.{}.gamma",
        ],
        patch: "",
        positions: "",
        rules: &[],
    },
    Layout {
        family: Family::ConvNeXt,
        names: OPEN_MMLAB,
        prefixes: &["backbone.", ""],
        has: &["stages.0.{}.depthwise_conv.weight"],
        lacks: &[],
        blocks: &[
            "stages.0.{}.gamma",
            "stages.1.{}.gamma",
            "stages.2.{}.gamma",
            "stages.3.{}.gamma",
        ],
        patch: "",
        positions: "",
        rules: &[],
    },
    Layout {
        family: Family::ConvNeXt,
        names: TIMM,
        prefixes: &["backbone.", ""],
        has: &["stages.0.blocks.{}.conv_dw.weight"],
        lacks: &[],
        blocks: &[
            "stages.0.blocks.{}.gamma",
            "stages.1.blocks.{}.gamma",
            "stages.2.blocks.{}.gamma",
            "stages.3.blocks.{}.gamma",
        ],
        patch: "",
        positions: "",
        rules: &[],
    },
];

/// The names of the family's first publication.
const OFFICIAL: &str = "its authors' names";

/// The names of the transformers library.
const HUGGING_FACE: &str = "Hugging Face's names";

const TIMM: &str = "timm's names";
const OPEN_MMLAB: &str = "OpenMMLab's names";

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
    /// Conversion of the names to those of the network.
    pub(super) rules: &'static [Rule],
}

/// The known backbone in a dictionary.
pub fn recognise(dict: &StateDict) -> Option<Known> {
    recognise_shapes(&dict.shapes())
}

/// As [`recognise`], from names and shapes alone.
pub fn recognise_shapes(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Known> {
    let read = |layout: &Layout| layout.prefixes.iter().find_map(|p| layout.read(shapes, p));
    LAYOUTS.iter().find_map(read)
}

/// The number at `{}` if `name` matches the pattern; 0 for a pattern without `{}`.
pub(super) fn number(pattern: &str, name: &str) -> Option<usize> {
    match pattern.split_once("{}") {
        None => (pattern == name).then_some(0),
        Some((head, tail)) => {
            let digits = name.strip_prefix(head)?.strip_suffix(tail)?;
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        }
    }
}

impl Layout {
    fn read(&self, shapes: &BTreeMap<String, Vec<usize>>, prefix: &'static str) -> Option<Known> {
        let own = || shapes.keys().filter_map(|name| name.strip_prefix(prefix));
        let any = |pattern: &&&str| own().any(|name| number(pattern, name).is_some());
        if !self.has.iter().all(|p| any(&p)) || self.lacks.iter().any(|p| any(&p)) {
            return None;
        }
        let shape = |name: &str| shapes.get(&format!("{prefix}{name}"));
        let count = |p: &&str| own().filter_map(|name| number(p, name)).max().map_or(0, |n| n + 1);
        let first = self.blocks.first()?;
        let width = own().find(|name| number(first, name).is_some());
        let patch = shape(self.patch).and_then(|s| s.get(2));
        let registers = ["register_tokens", "embeddings.register_tokens"];
        let registers = registers.iter().find_map(|name| shape(name)?.get(1).copied());
        Some(Known {
            family: self.family,
            names: self.names,
            prefix,
            width: width.and_then(|name| shape(name)?.first().copied())?,
            blocks: self.blocks.iter().map(count).collect(),
            patch: patch.copied().unwrap_or(0),
            grid: shape(self.positions).map_or(0, |s| grid(s)),
            registers: registers.unwrap_or(0),
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
        let transformer = || match (self.width, self.blocks.as_slice()) {
            (384, [12]) => Some("S"),
            (768, [12]) => Some("B"),
            (1024, [24]) => Some("L"),
            (1280, [32]) => Some("H"),
            (1536, [40]) => Some("g"),
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

    /// Value of `model.backbone` for this backbone, if it is a published one that can be built.
    pub fn recipe_name(&self) -> Option<&'static str> {
        let same = |p: &&Published| {
            let same_sizes = p.config.embed_dim == self.width && self.blocks == [p.config.depth];
            p.family == self.family && same_sizes
        };
        PUBLISHED.iter().find(same).map(|published| published.name)
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
            (Family::Dinov2 | Family::Mae | Family::Eva02, _) => format!("{family} {vit}"),
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
