//! A per-pixel head: a 1x1 convolution on the concatenated taps, and cross-entropy of every pixel.
//!
//! The logits are computed on the grid of the finest tap, resized to the image and compared with
//! its labels; the mean is over all pixels (spec mask2former §6). Keys are those of the reference's
//! decode heads: `decode_head.conv_seg.{weight,bias}`.

use dressage_engine::{Tensor, range};

use super::Features;
use super::pixel_step::{Mode, PixelHead, classify, concatenated};
use crate::Result;
use crate::layers::Linear;
use crate::params::{Init, Scope};

/// Sizes and settings of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct PerPixelConfig {
    /// Channels of each of the backbone's maps.
    pub in_channels: Vec<usize>,
    /// Classes k.
    pub classes: usize,
}

/// The head with its loss.
pub struct PerPixel {
    config: PerPixelConfig,
    conv_seg: Linear,
}

impl PerPixel {
    /// Gets every parameter from `scope` (the reference's `decode_head.`): weights N(0, 0.01), bias
    /// zero.
    pub fn new(scope: &Scope, config: PerPixelConfig) -> PerPixel {
        let shape = [config.classes, config.in_channels.iter().sum()];
        let (weight, bias) = (Init::Normal(0.01), Some(Init::Constant(0.0)));
        PerPixel { conv_seg: Linear::conv1x1(&scope.sub("conv_seg"), shape, weight, bias), config }
    }
}

impl PixelHead for PerPixel {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn logits(&self, features: &Features, _mode: Mode<'_>) -> Result<Tensor> {
        let _range = range("head.per_pixel");
        classify(&self.conv_seg, &concatenated(features, &self.config.in_channels)?)
    }
}
