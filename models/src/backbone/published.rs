//! Published backbones: the one list of their names and sizes (spec backbones §1.1).
//!
//! Recipes, conversion of weights, counts and benchmarks take names, sizes and families from here.

use super::{Ffn, VitConfig};
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
    pub config: VitConfig,
}

impl Published {
    /// The sizes for patches of `patch` pixels and a position table of `grid` patches a side.
    pub fn at(&self, patch: usize, grid: usize) -> VitConfig {
        VitConfig { patch, grid, ..self.config.clone() }
    }

    /// Usual name, such as `DINOv2 ViT-L`.
    pub fn title(&self) -> String {
        format!("{} ViT-{}", self.family, self.size)
    }
}

/// All published backbones that networks can be built of.
pub const PUBLISHED: &[Published] = &[
    dinov2(["dinov2-s", "dinov2-s-reg", "s", "S"], [384, 12, 6], Ffn::Mlp),
    dinov2(["dinov2-b", "dinov2-b-reg", "b", "B"], [768, 12, 12], Ffn::Mlp),
    dinov2(["dinov2-l", "dinov2-l-reg", "l", "L"], [1024, 24, 16], Ffn::Mlp),
    dinov2(["dinov2-g", "dinov2-g-reg", "g", "g"], [1536, 40, 24], Ffn::Swiglu),
];

/// Hidden width of the published MLPs as a multiple of the channels, before the rule for a SwiGLU.
pub const FFN_RATIO: f64 = 4.0;

/// A DINOv2: its names, then its channels, blocks and heads.
const fn dinov2(
    [name, with_registers, short, size]: [&'static str; 4],
    [embed_dim, depth, heads]: [usize; 3],
    ffn: Ffn,
) -> Published {
    let config = VitConfig {
        embed_dim,
        depth,
        heads,
        patch: 14,
        grid: 37,
        ffn,
        hidden: ffn.hidden(embed_dim, FFN_RATIO),
        registers: 0,
        eps: 1e-6,
        taps: VitConfig::default_taps(depth),
    };
    let (family, registers) = (Family::Dinov2, Some((with_registers, 4)));
    Published { name, short, size, family, registers, config }
}

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
    names.join(" and ")
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
