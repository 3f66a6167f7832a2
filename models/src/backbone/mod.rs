//! Backbones: frozen (or fully trained) networks that turn an image into four tapped maps.

mod convnext;
pub mod published;
mod resnet;
mod vit;

use std::sync::Arc;

use dressage_engine::{Tensor, ops};

pub use convnext::{ConvNext, ConvNextConfig};
pub use published::{PUBLISHED, Published};
pub use resnet::{ResNet, ResNetConfig, Stem};
pub use vit::{
    ClassToken, Ffn, Pass, PositionTable, QkvBias, RotaryEmbedding, Vit, VitConfig, WindowConfig,
};

use crate::adapter::{AdapterConfig, AdapterStep};
use crate::generator::Generator;
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

    /// [`Backbone::forward`] in a training step, which may normalise by the statistics of the batch
    /// and drop branches.
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    fn train(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
        _generator: &Generator,
    ) -> Result<Vec<Level>> {
        self.forward(image, adapter)
    }
}

/// Blocks of one width, after each of which an adapter may refine the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Number of blocks.
    pub blocks: usize,
    /// Channels.
    pub width: usize,
}

/// Sizes and parts of a backbone of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// A vision transformer.
    Vit(VitConfig),
    /// A ConvNeXt.
    ConvNext(ConvNextConfig),
    /// A ResNet with bottlenecks.
    ResNet(ResNetConfig),
}

impl From<VitConfig> for BackboneConfig {
    fn from(config: VitConfig) -> BackboneConfig {
        BackboneConfig::Vit(config)
    }
}

impl From<ConvNextConfig> for BackboneConfig {
    fn from(config: ConvNextConfig) -> BackboneConfig {
        BackboneConfig::ConvNext(config)
    }
}

impl From<ResNetConfig> for BackboneConfig {
    fn from(config: ResNetConfig) -> BackboneConfig {
        BackboneConfig::ResNet(config)
    }
}

impl BackboneConfig {
    /// Builds the backbone. Every parameter comes from `scope`.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn build(self, scope: &Scope) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            BackboneConfig::Vit(config) => Box::new(Vit::new(scope, config)?),
            BackboneConfig::ConvNext(config) => Box::new(ConvNext::new(scope, config)?),
            BackboneConfig::ResNet(config) => Box::new(ResNet::new(scope, config)?),
        })
    }

    /// The vision transformer, if it is one.
    pub fn vit(&self) -> Option<&VitConfig> {
        match self {
            BackboneConfig::Vit(config) => Some(config),
            BackboneConfig::ConvNext(_) | BackboneConfig::ResNet(_) => None,
        }
    }

    /// The same backbone for patches of `patch` pixels and a position table of `grid` patches a
    /// side. Only a ViT has them.
    pub fn at(&self, patch: usize, grid: usize) -> BackboneConfig {
        match self {
            BackboneConfig::Vit(config) => config.at(patch, grid).into(),
            other => other.clone(),
        }
    }

    /// Channels of the four tapped maps.
    pub fn widths(&self) -> [usize; 4] {
        match self {
            BackboneConfig::Vit(config) => [config.embed_dim; 4],
            BackboneConfig::ConvNext(config) => config.widths,
            BackboneConfig::ResNet(config) => config.stages().map(|stage| stage.width),
        }
    }

    /// Blocks by their width, in order. The blocks of all stages are counted through.
    pub fn stages(&self) -> Vec<Stage> {
        match self {
            BackboneConfig::Vit(config) => {
                vec![Stage { blocks: config.depth, width: config.embed_dim }]
            }
            BackboneConfig::ConvNext(config) => config.stages().to_vec(),
            BackboneConfig::ResNet(config) => config.stages().to_vec(),
        }
    }

    /// Checks that an adapter fits into the blocks.
    ///
    /// # Errors
    /// An adapter of the attention or the tokens of transformers, for another backbone; one that
    /// adds tokens, for attention within windows, which has no place for them.
    pub fn takes(&self, adapter: &AdapterConfig) -> Result<()> {
        let text = match self {
            BackboneConfig::Vit(VitConfig { windows: Some(_), .. }) if adapter.adds_tokens() => {
                "the adapter adds tokens, for which the backbone's windows have no place"
            }
            BackboneConfig::ConvNext(_) | BackboneConfig::ResNet(_) if adapter.rein().is_none() => {
                "the adapter changes the blocks of a transformer, and the backbone is none; choose \
                 rein"
            }
            _ => return Ok(()),
        };
        Err(ModelError::Config(text.into()))
    }

    /// Side of a patch in pixels, which enters the range of initial tokens. Rein takes 16 for
    /// backbones without patches.
    pub fn patch(&self) -> usize {
        self.vit().map_or(16, |config| config.patch)
    }

    /// Names in the files of its authors that the network does not use.
    pub fn unused(&self) -> &'static [&'static str] {
        if self.vit().is_some() { UNUSED } else { &[] }
    }
}

/// Names that may be left over: the mask token is used in masked pre-training only.
const UNUSED: &[&str] = &["mask_token"];

/// A map `[b, h, w, c]` that leaves block `i`, changed by an adapter.
fn adapted(adapter: &dyn AdapterStep, i: usize, y: &Tensor) -> Result<Tensor> {
    let &[b, h, w, c] = y.shape() else { return Ok(y.clone()) };
    let rows = ops::reshape(y, &[b, h * w, c])?;
    Ok(ops::reshape(&adapter.leave(i, rows, 0)?, &[b, h, w, c])?)
}

/// Fails unless `image` is `[b, 3, h, w]` with sides that are multiples of `side`, named `what`.
pub(crate) fn check_image(image: &Tensor, side: usize, what: &str) -> Result<()> {
    let &[_, 3, h, w] = image.shape() else {
        let text = format!("image is {:?}, expected [b, 3, h, w]", image.shape());
        return Err(ModelError::Config(text));
    };
    if !h.is_multiple_of(side) || !w.is_multiple_of(side) || h == 0 || w == 0 {
        let text = format!("image is {h}x{w}, both sides must be multiples of {what} {side}");
        return Err(ModelError::Config(text));
    }
    Ok(())
}

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
