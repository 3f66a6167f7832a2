//! A per-pixel head: a 1x1 convolution on the concatenated taps, and cross-entropy of every pixel.
//!
//! The logits are computed on the grid of the finest tap, resized to the image and compared with
//! its labels; the mean is over all pixels (spec mask2former §6). Keys are those of the reference's
//! decode heads: `decode_head.conv_seg.{weight,bias}`.

use std::sync::Arc;

use dressage_engine::{Device, Tensor, no_grad, ops, range};

use super::{BatchPart, Features, LossTerms, Objective, StepLoss, Targets};
use crate::layers::Linear;
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes and settings of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct PerPixelConfig {
    /// Channels of each of the backbone's maps.
    pub in_channels: usize,
    /// Maps that the backbone taps.
    pub taps: usize,
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
        let shape = [config.classes, config.in_channels * config.taps];
        let (weight, bias) = (Init::Normal(0.01), Some(Init::Constant(0.0)));
        PerPixel { conv_seg: Linear::conv1x1(&scope.sub("conv_seg"), shape, weight, bias), config }
    }

    /// Class logits `[b, k, h, w]` on the grid of the finest map, in f32.
    fn logits(&self, features: &Features) -> Result<Tensor> {
        let _range = range("head.per_pixel");
        let Some(first) = features.levels.first().filter(|_| self.fits(features)) else {
            let found: Vec<_> = features.levels.iter().map(|level| level.map.shape()).collect();
            return Err(ModelError::Config(format!(
                "the per-pixel head takes {} maps of {} channels, not {found:?}",
                self.config.taps, self.config.in_channels
            )));
        };
        let &[b, h, w, _] = first.map.shape() else { return Err(not_a_map(&first.map)) };
        let on_grid = |map: &Tensor| match map.shape()[1..3] == [h, w] {
            true => Ok(map.clone()),
            false => ops::resize_to(map, h, w),
        };
        let maps = features.levels.iter().map(|level| on_grid(&level.map));
        let maps = maps.collect::<std::result::Result<Vec<_>, _>>()?;
        let all = ops::concat(&maps.iter().collect::<Vec<_>>(), 3)?;
        let logits = self.conv_seg.forward(&ops::reshape(&all, &[b, h * w, all.last_dim()])?)?;
        let planar = ops::transpose(&logits)?;
        let planar = ops::cast(&planar, planar.dtype().of_sums())?;
        Ok(ops::reshape(&planar, &[b, self.config.classes, h, w])?)
    }

    fn fits(&self, features: &Features) -> bool {
        let wide = |map: &Tensor| map.last_dim() == self.config.in_channels;
        features.levels.len() == self.config.taps && features.levels.iter().all(|l| wide(&l.map))
    }
}

fn not_a_map(map: &Tensor) -> ModelError {
    ModelError::Config(format!("a tapped map is {:?}, expected [b, h, w, c]", map.shape()))
}

impl Objective for PerPixel {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn terms(&self) -> Vec<String> {
        vec!["loss_ce".into()]
    }

    fn step_loss(
        self: Arc<Self>,
        _device: Option<&Device>,
        _b: usize,
        _seed: u64,
    ) -> Result<Box<dyn StepLoss>> {
        Ok(Box::new(PixelStep { objective: self, whole: None, logits: None, previous: None }))
    }

    fn scores(&self, features: &Features) -> Result<Tensor> {
        no_grad(|| Ok(ops::resize_maps(&self.logits(features)?, features.size)?))
    }
}

/// Loss of every pixel through the steps of a run. The host decides nothing; it only reads the loss
/// of the step before.
struct PixelStep {
    objective: Arc<PerPixel>,
    /// Images of the whole batch, if these are a part of it.
    whole: Option<usize>,
    /// Logits `[b, k, H, W]` of the step, until their loss is computed.
    logits: Option<Tensor>,
    /// Copy of the losses of the step before.
    previous: Option<Tensor>,
}

impl StepLoss for PixelStep {
    fn set_step(&mut self, _step: u64, part: Option<BatchPart<'_>>) -> Result<()> {
        self.whole = part.map(|part| part.targets.len());
        Ok(())
    }

    fn predict(&mut self, features: &Features) -> Result<()> {
        let logits = self.objective.logits(features)?;
        self.logits = Some(ops::resize_maps(&logits, features.size)?);
        Ok(())
    }

    fn costs(&mut self, _targets: &Targets, previous: Option<&Tensor>) -> Result<()> {
        self.previous = previous.map(Tensor::deep_copy).transpose()?;
        Ok(())
    }

    fn decide(&mut self, _targets: &Targets) -> Result<Vec<f32>> {
        let Some(previous) = &self.previous else { return Ok(Vec::new()) };
        Ok(previous.to_host()?.data()?.to_vec())
    }

    fn losses(&mut self, targets: &Targets) -> Result<LossTerms> {
        let none = || ModelError::Config("nothing was predicted before the losses".into());
        let logits = self.logits.take().ok_or_else(none)?;
        if targets.k() != self.objective.config.classes {
            let (found, own) = (targets.k(), self.objective.config.classes);
            let text = format!("targets of {found} classes, a head of {own}");
            return Err(ModelError::Config(text));
        }
        let _range = range("losses");
        // Images of one size: the mean over a batch is that of the means over its images.
        let share = |whole: usize| logits.dim(0) as f64 / whole as f64;
        let total = ops::pixel_loss(&logits, targets.labels(), self.whole.map_or(1.0, share))?;
        let values = ops::reshape(&total.detach(), &[1])?;
        Ok(LossTerms { total, values })
    }

    fn release(&mut self) {
        self.logits = None;
        self.previous = None;
    }
}
