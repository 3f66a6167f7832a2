//! Training of heads that predict class logits: cross-entropy of every pixel.

use std::any::Any;
use std::sync::Arc;

use dressage_engine::{DType, Device, Tensor, no_grad, ops, range};
use dressage_kernels::dry_run;
use dressage_kernels::ops::uniform::Philox;

use super::{BatchPart, Features, LossTerms, Objective, StepLoss, Targets};
use crate::layers::Linear;
use crate::{ModelError, Result};

/// Name of the only term, as in the reference.
const TERM: &str = "loss_ce";

/// A head that predicts class logits, and so is an [`Objective`].
pub(super) trait PixelHead: Any + Send + Sync {
    /// Classes k.
    fn classes(&self) -> usize;

    /// Logits `[b, k, h, w]` in f32, of a training step or of a prediction.
    fn logits(&self, features: &Features, mode: Mode<'_>) -> Result<Tensor>;

    /// Channels before the classifier, and the share of them that training leaves out.
    fn dropout(&self) -> (usize, f64) {
        (0, 0.0)
    }
}

/// What logits are computed for.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// A training step. The factors are of [`ChannelDropout`], if the head has it.
    Training(Option<&'a Tensor>),
    /// A prediction.
    Evaluation,
}

impl<H: PixelHead> Objective for H {
    fn classes(&self) -> usize {
        PixelHead::classes(self)
    }

    fn terms(&self) -> Vec<String> {
        vec![TERM.into()]
    }

    fn step_loss(
        self: Arc<Self>,
        device: Option<&Device>,
        b: usize,
        seed: u64,
    ) -> Result<Box<dyn StepLoss>> {
        let (channels, rate) = self.dropout();
        let dropout = (rate > 0.0).then(|| ChannelDropout::new(device, [b, channels], rate, seed));
        let dropout = dropout.transpose()?;
        let (whole, logits, previous) = (None, None, None);
        Ok(Box::new(PixelStep { head: self, dropout, whole, logits, previous }))
    }

    fn scores(&self, features: &Features) -> Result<Tensor> {
        no_grad(|| {
            let logits = self.logits(features, Mode::Evaluation)?;
            Ok(ops::resize_maps(&logits, features.size)?)
        })
    }
}

/// All tapped maps side by side on the grid of the finest, `[b, h, w, sum of their channels]`.
/// `channels` has the widths that the head takes.
pub(super) fn concatenated(features: &Features, channels: &[usize]) -> Result<Tensor> {
    let width = |map: &Tensor| match *map.shape() {
        [_, _, _, c] => Some(c),
        _ => None,
    };
    let fits = features.levels.iter().map(|level| width(&level.map));
    let fits = fits.eq(channels.iter().map(|c| Some(*c)));
    let Some(first) = features.levels.first().filter(|_| fits) else {
        let found: Vec<_> = features.levels.iter().map(|level| level.map.shape()).collect();
        let text = format!("the head takes maps of {channels:?} channels, not {found:?}");
        return Err(ModelError::Config(text));
    };
    let (h, w) = (first.map.dim(1), first.map.dim(2));
    let on_grid = |map: &Tensor| match map.shape()[1..3] == [h, w] {
        true => Ok(map.clone()),
        false => ops::resize_to(map, h, w),
    };
    let maps = features.levels.iter().map(|level| on_grid(&level.map));
    let maps = maps.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(ops::concat(&maps.iter().collect::<Vec<_>>(), 3)?)
}

/// Planar logits `[b, k, h, w]` in f32 of maps `[b, h, w, c]`.
pub(super) fn classify(conv_seg: &Linear, maps: &Tensor) -> Result<Tensor> {
    let &[b, h, w, c] = maps.shape() else {
        let text = format!("a map is {:?}, expected [b, h, w, c]", maps.shape());
        return Err(ModelError::Config(text));
    };
    let logits = conv_seg.forward(&ops::reshape(maps, &[b, h * w, c])?)?;
    let planar = ops::transpose(&logits)?;
    let planar = ops::cast(&planar, planar.dtype().of_sums())?;
    Ok(ops::reshape(&planar, &[b, logits.last_dim(), h, w])?)
}

/// Dropout of whole channels: a factor of 0 or `1 / (1 - rate)` for each image and channel.
struct ChannelDropout {
    rate: f64,
    seed: u64,
    /// `[b, c]`, f32. On a device it keeps its address.
    factors: Tensor,
}

impl ChannelDropout {
    /// Factors of step 0 for `[b, c]`, on `device` or the host.
    fn new(
        device: Option<&Device>,
        shape: [usize; 2],
        rate: f64,
        seed: u64,
    ) -> Result<ChannelDropout> {
        let factors = Tensor::zeros_on(device, DType::F32, &shape)?;
        let mut dropout = ChannelDropout { rate, seed, factors };
        dropout.set_step(0)?;
        Ok(dropout)
    }

    /// Draws the factors of a step. Image and channel decide the draw, whatever the place.
    fn set_step(&mut self, step: u64) -> Result<()> {
        const PURPOSE: u32 = 0x4452_4F50;
        if dry_run::skip("dropout") {
            return Ok(());
        }
        let (b, c, kept) = (self.factors.dim(0), self.factors.dim(1), 1.0 - self.rate);
        let drawn = (0..b).flat_map(|image| {
            let mut random = Philox::new(self.seed, PURPOSE, image as u64, step);
            (0..c).map(move |_| if random.uniform() < kept { (1.0 / kept) as f32 } else { 0.0 })
        });
        let drawn: Vec<f32> = drawn.collect();
        match self.factors.device() {
            Some(_) => self.factors.overwrite(&drawn)?,
            None => self.factors = Tensor::from_slice(&drawn, &[b, c])?,
        }
        Ok(())
    }
}

/// Loss of every pixel through the steps of a run. The host decides nothing; it only reads the loss
/// of the step before.
struct PixelStep {
    head: Arc<dyn PixelHead>,
    dropout: Option<ChannelDropout>,
    /// Images of the whole batch, if these are a part of it.
    whole: Option<usize>,
    /// Logits `[b, k, H, W]` of the step, until their loss is computed.
    logits: Option<Tensor>,
    /// Copy of the losses of the step before.
    previous: Option<Tensor>,
}

impl StepLoss for PixelStep {
    fn set_step(&mut self, step: u64, part: Option<BatchPart<'_>>) -> Result<()> {
        self.whole = part.map(|part| part.targets.len());
        // Predictions of a step that failed still refer to its factors.
        self.logits = None;
        self.dropout.as_mut().map_or(Ok(()), |dropout| dropout.set_step(step))
    }

    fn predict(&mut self, features: &Features) -> Result<()> {
        let dropout = self.dropout.as_ref().map(|dropout| &dropout.factors);
        let logits = self.head.logits(features, Mode::Training(dropout))?;
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
        if targets.k() != self.head.classes() {
            let (found, own) = (targets.k(), self.head.classes());
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
