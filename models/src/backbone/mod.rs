//! Backbones: frozen (or fully trained) networks that turn an image into four tapped maps.

pub mod published;
mod vit;

use std::sync::Arc;

use dressage_engine::{Tensor, ops};

pub use published::{PUBLISHED, Published};
pub use vit::{
    ClassToken, Ffn, Pass, PositionTable, QkvBias, RotaryEmbedding, Vit, VitConfig, WindowConfig,
};

use crate::adapter::AdapterStep;
use crate::params::Scope;
use crate::{ModelError, Result};

/// A backbone.
pub trait Backbone: Send + Sync {
    /// Channels of the four tapped maps.
    fn widths(&self) -> [usize; 4];

    /// Number of pixels of which both sides of an image must be multiples.
    fn multiple(&self) -> usize;

    /// The pyramid of `image` `[b, 3, h, w]`: tapped maps with their resize factors.
    ///
    /// # Errors
    /// An image whose sides are not multiples of [`Backbone::multiple`].
    fn forward(&self, image: &Tensor, adapter: Option<&Arc<dyn AdapterStep>>)
    -> Result<Vec<Level>>;
}

/// Sizes and parts of a backbone of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// A vision transformer.
    Vit(VitConfig),
}

impl From<VitConfig> for BackboneConfig {
    fn from(config: VitConfig) -> BackboneConfig {
        BackboneConfig::Vit(config)
    }
}

impl BackboneConfig {
    /// Builds the backbone. Every parameter comes from `scope`.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn build(self, scope: &Scope) -> Result<Box<dyn Backbone>> {
        let BackboneConfig::Vit(config) = self;
        Ok(Box::new(Vit::new(scope, config)?))
    }

    /// Channels of the tapped maps.
    pub fn width(&self) -> usize {
        let BackboneConfig::Vit(config) = self;
        config.embed_dim
    }

    /// Blocks after which an adapter may refine the features.
    pub fn depth(&self) -> usize {
        let BackboneConfig::Vit(config) = self;
        config.depth
    }

    /// Checks that an adapter may add tokens to those of a block.
    ///
    /// # Errors
    /// Attention within windows, or on a grid, has no place for them.
    pub fn takes_tokens(&self) -> Result<()> {
        let BackboneConfig::Vit(config) = self;
        match config.windows {
            None => Ok(()),
            Some(_) => Err(ModelError::Config(
                "the adapter adds tokens, for which the backbone's windows have no place".into(),
            )),
        }
    }

    /// Side of a patch in pixels.
    pub fn patch(&self) -> usize {
        let BackboneConfig::Vit(config) = self;
        config.patch
    }

    /// Names in the files of its authors that the network does not use.
    pub fn unused(&self) -> &'static [&'static str] {
        UNUSED
    }
}

/// Names that may be left over: the mask token is used in masked pre-training only.
const UNUSED: &[&str] = &["mask_token"];

/// One level of the feature pyramid: a tapped map and the factor by which the reference resizes it.
///
/// The reader of the level resizes it, and may project to fewer channels first. A 1×1 convolution
/// with bias commutes with bilinear interpolation: projecting 1024 to 256 channels before enlarging
/// by 4 saves 15/16 of the work.
#[derive(Debug, Clone)]
pub struct Level {
    /// `[b, h, w, c]` as tapped.
    pub map: Tensor,
    /// 4, 2, 1 or 0.5.
    pub factor: f64,
}

impl Level {
    /// A level that needs no resizing.
    pub fn plain(map: Tensor) -> Level {
        Level { map, factor: 1.0 }
    }

    /// The resized map (bilinear, no corner alignment, step 1/factor).
    ///
    /// # Errors
    /// If the map is not four-dimensional.
    pub fn resized(&self) -> Result<Tensor> {
        resize_by(&self.map, self.factor)
    }
}

/// Bilinear resize by a factor, as in the reference's pyramid; factor 1 returns the map itself.
pub(crate) fn resize_by(map: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(map.clone()) } else { Ok(ops::resize_by_factor(map, factor)?) }
}

/// Resize factors of the four taps: strides 4, 8, 16 and 32 from a patch of 16.
pub const PYRAMID: [f64; 4] = [4.0, 2.0, 1.0, 0.5];
