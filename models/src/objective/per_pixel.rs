//! A per-pixel head: a 1x1 convolution on the concatenated taps, and cross-entropy of every pixel.
//!
//! The logits are computed on the grid of the finest tap, resized to the image and compared with
//! its labels; the mean is over all pixels (spec mask2former §6). Keys are those of the reference's
//! decode heads: `decode_head.conv_seg.{weight,bias}`.

use std::sync::Arc;

use dressage_engine::{Device, Tensor, no_grad, ops, range};

use super::pixel_step::{PixelHead, PixelStep, TERM, classify, concatenated};
use super::{Features, Objective, StepLoss};
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

    /// Class logits `[b, k, h, w]` on the grid of the finest map, in f32.
    fn logits(&self, features: &Features) -> Result<Tensor> {
        let _range = range("head.per_pixel");
        classify(&self.conv_seg, &concatenated(features, &self.config.in_channels)?)
    }
}

impl PixelHead for PerPixel {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn train_logits(&self, features: &Features, _dropout: Option<&Tensor>) -> Result<Tensor> {
        self.logits(features)
    }
}

impl Objective for PerPixel {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn terms(&self) -> Vec<String> {
        vec![TERM.into()]
    }

    fn step_loss(
        self: Arc<Self>,
        _device: Option<&Device>,
        _b: usize,
        _seed: u64,
    ) -> Result<Box<dyn StepLoss>> {
        Ok(Box::new(PixelStep::new(self, None)))
    }

    fn scores(&self, features: &Features) -> Result<Tensor> {
        no_grad(|| Ok(ops::resize_maps(&self.logits(features)?, features.size)?))
    }
}
