//! Objectives: a head together with the loss that trains it.
//!
//! A training step knows the four phases of [`StepLoss`] and nothing of what is inside them.

pub mod deconv;
pub mod mask2former;
pub mod per_pixel;
mod pixel_step;
pub mod semfpn;
mod targets;

use std::any::Any;
use std::sync::Arc;

use dressage_engine::{Device, Tensor};

use self::deconv::{Deconv, DeconvConfig};
use self::mask2former::Mask2Former;
use self::mask2former::criterion::CriterionConfig;
use self::mask2former::head::HeadConfig;
use self::per_pixel::{PerPixel, PerPixelConfig};
use self::semfpn::{SemFpn, SemFpnConfig};
pub use self::targets::{IGNORE, Targets};
use crate::adapter::ReinConfig;
use crate::backbone::Level;
use crate::params::Scope;
use crate::{ModelError, Result};

/// What a backbone and its adapter make of a batch of images.
pub struct Features {
    /// The tapped maps, from fine to coarse.
    pub levels: Vec<Level>,
    /// Queries `[m, c']` of an adapter that makes them.
    pub queries: Option<Tensor>,
    /// Height and width of the images in pixels.
    pub size: [usize; 2],
}

/// Loss of one step.
pub struct LossTerms {
    /// Sum of all terms, differentiable.
    pub total: Tensor,
    /// Weighted terms, f32, in the order of [`Objective::terms`].
    pub values: Tensor,
}

/// Part of a batch whose losses and gradients are computed one part after the other.
#[derive(Debug, Clone, Copy)]
pub struct BatchPart<'a> {
    /// Number of targets of each image of the whole batch.
    pub targets: &'a [usize],
    /// First image of the part.
    pub first: usize,
}

/// A head with its loss.
pub trait Objective: Any + Send + Sync {
    /// Number of classes.
    fn classes(&self) -> usize;

    /// Names of the loss terms, as in the reference without its `decode.`.
    fn terms(&self) -> Vec<String>;

    /// Creates the loss for steps on `b` images. On a device its buffers keep their addresses.
    ///
    /// # Errors
    /// No room on the device.
    fn step_loss(
        self: Arc<Self>,
        device: Option<&Device>,
        b: usize,
        seed: u64,
    ) -> Result<Box<dyn StepLoss>>;

    /// Class scores `[b, k, h, w]`, f32, at the size of the images; without gradient.
    ///
    /// # Errors
    /// Maps that do not fit, or missing queries.
    fn scores(&self, features: &Features) -> Result<Tensor>;
}

impl dyn Objective {
    /// The Mask2Former head and losses, if that is the objective.
    pub fn mask2former(&self) -> Option<&Mask2Former> {
        (self as &dyn Any).downcast_ref()
    }
}

/// Loss of an objective through the steps of a run, on the host or on one device.
///
/// A step calls [`StepLoss::predict`], [`StepLoss::costs`], [`StepLoss::decide`] and
/// [`StepLoss::losses`] in this order. On a device all but `decide` queue work without waiting,
/// and may be captured in a graph. After a capture, steps call `decide` alone: replays do the rest.
pub trait StepLoss: Send {
    /// Sets the step whose random numbers are drawn next. With `part`, the images are a part of a
    /// batch: they have the random numbers that they would have within it, and the losses of all
    /// parts add up to that of the whole batch. The first image of the part may not change once
    /// work is captured.
    ///
    /// # Errors
    /// A failure of the device.
    fn set_step(&mut self, step: u64, part: Option<BatchPart<'_>>) -> Result<()>;

    /// Computes the predictions.
    ///
    /// # Errors
    /// Maps that do not fit, or missing queries.
    fn predict(&mut self, features: &Features) -> Result<()>;

    /// Computes what the host decides on. `previous` is read with it: losses of the step before,
    /// on the device of the predictions.
    ///
    /// # Errors
    /// Targets that do not fit or lie elsewhere; a failure of the device.
    fn costs(&mut self, targets: &Targets, previous: Option<&Tensor>) -> Result<()>;

    /// Decides on the host what the losses compare, and returns the values of `previous`. On a
    /// device this is the only wait of a step.
    ///
    /// # Errors
    /// A cost that is not finite; a failure of the device, also of work queued earlier.
    fn decide(&mut self, targets: &Targets) -> Result<Vec<f32>>;

    /// Computes the losses of the predictions, which are dropped.
    ///
    /// # Errors
    /// Targets that do not fit or lie elsewhere; a failure of the device.
    fn losses(&mut self, targets: &Targets) -> Result<LossTerms>;

    /// Drops what only a replay of this step would need.
    fn release(&mut self);
}

/// Sizes and settings of an objective.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectiveConfig {
    /// [`Mask2Former`].
    Mask2Former {
        /// The head.
        head: HeadConfig,
        /// The losses.
        loss: CriterionConfig,
    },
    /// [`PerPixel`].
    PerPixel(PerPixelConfig),
    /// [`SemFpn`].
    SemFpn(SemFpnConfig),
    /// [`Deconv`].
    Deconv(DeconvConfig),
}

impl ObjectiveConfig {
    /// Channels of each of the backbone's maps.
    pub fn in_channels(&self) -> &[usize] {
        match self {
            ObjectiveConfig::Mask2Former { head, .. } => &head.in_channels,
            ObjectiveConfig::PerPixel(config) => &config.in_channels,
            ObjectiveConfig::SemFpn(config) => &config.in_channels,
            ObjectiveConfig::Deconv(config) => &config.in_channels,
        }
    }

    /// Builds the objective with parameters under `root`: the reference's `decode_head.` and `neck.`.
    ///
    /// # Errors
    /// Sizes that do not fit together, also not with the adapter.
    pub(crate) fn build(
        self,
        root: &Scope,
        rein: Option<&ReinConfig>,
    ) -> Result<Arc<dyn Objective>> {
        let head_scope = root.sub("decode_head");
        let linked = rein.filter(|rein| rein.link);
        match self {
            ObjectiveConfig::Mask2Former { head, loss } => {
                if let Some(rein) = linked {
                    head.check_links(rein.tokens)?;
                }
                Ok(Arc::new(Mask2Former::new(&head_scope, head, loss)?))
            }
            _ if linked.is_some() => {
                let text = "only the Mask2Former head has queries that Rein could make";
                Err(ModelError::Config(text.into()))
            }
            ObjectiveConfig::PerPixel(config) => Ok(Arc::new(PerPixel::new(&head_scope, config))),
            ObjectiveConfig::SemFpn(config) => Ok(Arc::new(SemFpn::new(root, config))),
            ObjectiveConfig::Deconv(config) => Ok(Arc::new(Deconv::new(&head_scope, config))),
        }
    }
}
