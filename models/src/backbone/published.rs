//! Published backbones: the one list of their names and sizes (spec backbones §1.1).
//!
//! Recipes, conversion of weights, counts and benchmarks take names, sizes and families from here.

use super::{
    BackboneConfig, ClassToken, ConvNextConfig, Ffn, PositionTable, QkvBias, ResNetConfig,
    RotaryEmbedding, Stem, VitConfig, WindowConfig,
};
use crate::weights::{Family, shown};
use crate::{ModelError, Result};

/// A published backbone.
#[derive(Debug)]
pub struct Published {
    /// Value of `model.backbone`.
    pub name: &'static str,
    /// Short name on the command line.
    pub short: &'static str,
    /// Size in its usual name, as in `ViT-L`.
    pub size: &'static str,
    /// Family, which decides the names in files of weights.
    pub family: Family,
    /// Name and number of register tokens of the variant that has some.
    pub registers: Option<(&'static str, usize)>,
    /// Sizes, for patches and images as in its pre-training.
    pub config: BackboneConfig,
}

impl Published {
    /// [`BackboneConfig::at`] of its sizes.
    pub fn at(&self, patch: usize, grid: usize) -> BackboneConfig {
        self.config.at(patch, grid)
    }

    /// The vision transformer.
    ///
    /// # Errors
    /// If the backbone is none.
    pub fn vit(&self) -> Result<&VitConfig> {
        let none = || ModelError::Config(format!("{} is no vision transformer", self.name));
        self.config.vit().ok_or_else(none)
    }

    /// Usual name, such as `DINOv2 ViT-L`.
    pub fn title(&self) -> String {
        let vit = if self.config.vit().is_some() { " ViT" } else { "" };
        format!("{}{vit}-{}", self.family, self.size)
    }
}

/// All published backbones that networks can be built of.
pub const PUBLISHED: &[Published] = &[
    dinov2(["dinov2-s", "dinov2-s-reg", "s", "S"], [384, 12, 6], Ffn::Mlp),
    dinov2(["dinov2-b", "dinov2-b-reg", "b", "B"], [768, 12, 12], Ffn::Mlp),
    dinov2(["dinov2-l", "dinov2-l-reg", "l", "L"], [1024, 24, 16], Ffn::Mlp),
    dinov2(["dinov2-g", "dinov2-g-reg", "g", "g"], [1536, 40, 24], Ffn::Swiglu),
    dinov3("dinov3-s", "S", [384, 12, 6, 1536], Ffn::Mlp),
    dinov3("dinov3-s-plus", "S+", [384, 12, 6, 1536], Ffn::Swiglu),
    dinov3("dinov3-b", "B", [768, 12, 12, 3072], Ffn::Mlp),
    dinov3("dinov3-l", "L", [1024, 24, 16, 4096], Ffn::Mlp),
    dinov3("dinov3-l-plus", "L+", [1024, 24, 16, 4096], Ffn::Swiglu),
    dinov3("dinov3-h-plus", "H+", [1280, 32, 20, 5120], Ffn::Swiglu),
    dinov3("dinov3-7b", "7B", [4096, 40, 32, 8192], Ffn::Swiglu),
    large("clip-l", Family::Clip, CLIP_L),
    large("mae-l", Family::Mae, MAE_L),
    large("eva02-l", Family::Eva02, EVA02_L),
    Published {
        name: "sam-h",
        short: "sam-h",
        size: "H",
        family: Family::Sam,
        registers: None,
        config: BackboneConfig::Vit(SAM_H),
    },
    Published {
        name: "convnext-l",
        short: "convnext-l",
        size: "L",
        family: Family::ConvNeXt,
        registers: None,
        config: BackboneConfig::ConvNext(ConvNextConfig::doubling(192, [3, 3, 27, 3])),
    },
    resnet("resnet50", "50", [3, 4, 6, 3]),
    resnet("resnet101", "101", [3, 4, 23, 3]),
];

/// Hidden width of the published MLPs as a multiple of the channels, before the rule for a SwiGLU.
pub const FFN_RATIO: f64 = 4.0;

/// A ResNet with the stem that the reference uses.
const fn resnet(name: &'static str, size: &'static str, depths: [usize; 4]) -> Published {
    let config = BackboneConfig::ResNet(ResNetConfig::doubling(Stem::Deep, 64, depths));
    Published { name, short: name, size, family: Family::ResNet, registers: None, config }
}

/// A DINOv2: its names, then its channels, blocks and heads.
const fn dinov2(
    [name, with_registers, short, size]: [&'static str; 4],
    [embed_dim, depth, heads]: [usize; 3],
    ffn: Ffn,
) -> Published {
    let config = BackboneConfig::Vit(VitConfig::dinov2(embed_dim, depth, heads, ffn));
    let (family, registers) = (Family::Dinov2, Some((with_registers, 4)));
    Published { name, short, size, family, registers, config }
}

/// A DINOv3: its names, then its channels, blocks, heads and hidden width (spec dinov3 §2, §7).
const fn dinov3(
    name: &'static str,
    size: &'static str,
    [embed_dim, depth, heads, hidden]: [usize; 4],
    ffn: Ffn,
) -> Published {
    // The authors tap other blocks of 24 than Rein does; the recipes keep Rein's.
    let config = VitConfig {
        patch: 16,
        grid: 32,
        positions: PositionTable::Absent,
        rotary: Some(RotaryEmbedding::Halves),
        registers: 4,
        qkv_bias: if embed_dim == 4096 { QkvBias::Absent } else { QkvBias::MaskedKey },
        hidden,
        eps: 1e-5,
        tap_norm: true,
        ..VitConfig::dinov2(embed_dim, depth, heads, ffn)
    };
    let config = BackboneConfig::Vit(config);
    Published { name, short: name, size, family: Family::Dinov3, registers: None, config }
}

/// A ViT-L that has one size only.
const fn large(name: &'static str, family: Family, config: VitConfig) -> Published {
    let config = BackboneConfig::Vit(config);
    Published { name, short: name, size: "L", family, registers: None, config }
}

/// The encoder of MAE (spec §4.3).
const MAE_L: VitConfig = VitConfig {
    patch: 16,
    grid: 14,
    positions: PositionTable::Bicubic,
    layer_scale: false,
    ..VitConfig::dinov2(1024, 24, 16, Ffn::Mlp)
};

/// The image tower of CLIP (spec §4.2).
const CLIP_L: VitConfig = VitConfig {
    patch: 14,
    patch_bias: false,
    grid: 16,
    positions: PositionTable::Bilinear,
    class_token: ClassToken::Twice,
    pre_norm: true,
    eps: 1e-5,
    final_norm: false,
    layer_scale: false,
    ..VitConfig::dinov2(1024, 24, 16, Ffn::QuickGelu)
};

/// EVA-02 (spec §4.4).
const EVA02_L: VitConfig = VitConfig {
    patch: 14,
    grid: 16,
    positions: PositionTable::Bicubic,
    rotary: Some(RotaryEmbedding::Neighbours { side: 16 }),
    qkv_bias: QkvBias::QueryValue,
    final_norm: false,
    layer_scale: false,
    ..VitConfig::dinov2(1024, 24, 16, Ffn::NormedSwiglu)
};

/// The image encoder of SAM (spec §4.5).
const SAM_H: VitConfig = VitConfig {
    patch: 16,
    grid: 64,
    positions: PositionTable::Bicubic,
    windows: Some(WindowConfig { side: 14, global: [7, 15, 23, 31], global_rows: 127 }),
    class_token: ClassToken::Absent,
    final_norm: false,
    layer_scale: false,
    ..VitConfig::dinov2(1280, 32, 16, Ffn::Mlp)
};

/// Names of all published backbones.
pub const NAMES: [&str; PUBLISHED.len()] = {
    let mut names = [""; PUBLISHED.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = PUBLISHED[i].name;
        i += 1;
    }
    names
};

/// The published backbone of this name.
///
/// # Errors
/// Any other name.
pub fn named(name: &str) -> Result<&'static Published> {
    PUBLISHED.iter().find(|published| published.name == name).ok_or_else(|| {
        let names = NAMES.join(", ");
        ModelError::Config(format!("backbone `{}` is none of {names}", shown(name)))
    })
}

/// Families that networks can be built of, for a message.
pub fn families() -> String {
    let mut names: Vec<String> = PUBLISHED.iter().map(|p| p.family.to_string()).collect();
    names.dedup();
    let last = names.pop().unwrap_or_default();
    format!("{} and {last}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (i, one) in PUBLISHED.iter().enumerate() {
            for other in &PUBLISHED[..i] {
                assert_ne!(one.name, other.name);
                assert_ne!(one.short, other.short);
            }
            assert_eq!(named(one.name).expect("known").size, one.size);
        }
    }
}
