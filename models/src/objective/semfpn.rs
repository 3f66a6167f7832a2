//! The semantic FPN: a feature pyramid network as neck, and a head that adds up its maps (spec
//! mask2former §6).
//!
//! The neck projects each level to the same channels, adds coarser levels from the top down and
//! smooths each by a 3x3 convolution. The head brings each level to the finest grid with 3x3
//! convolutions, batch norm, ReLU and bilinear resizing by 2, and adds them. Channel dropout, a 1x1
//! convolution and the cross-entropy of every pixel follow; its mean is over all pixels. Keys are
//! those of the reference: `neck.{lateral_convs,fpn_convs}.*`, `decode_head.{scale_heads,conv_seg}.*`.

use std::sync::Arc;

use dressage_engine::{Tensor, ops, range};

use super::Features;
use super::pixel_step::{Mode, PixelHead, classify};
use crate::backbone::{Level, resize_by};
use crate::layers::{BatchNorm, Conv, Linear};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Levels of the pyramid, strides 4 to 32.
const LEVELS: usize = 4;

/// Sizes and settings of neck and head.
#[derive(Debug, Clone, PartialEq)]
pub struct SemFpnConfig {
    /// Channels of each of the backbone's maps.
    pub in_channels: [usize; LEVELS],
    /// Channels of the neck.
    pub neck: usize,
    /// Channels of the head.
    pub channels: usize,
    /// Classes k.
    pub classes: usize,
    /// Share of the channels that training leaves out.
    pub dropout: f64,
}

impl SemFpnConfig {
    /// The published sizes.
    pub fn published(in_channels: [usize; LEVELS], classes: usize) -> SemFpnConfig {
        SemFpnConfig { in_channels, neck: 256, channels: 128, classes, dropout: 0.1 }
    }
}

/// A 3x3 convolution without bias, batch norm and ReLU.
struct Unit {
    conv: Conv,
    norm: Arc<BatchNorm>,
}

impl Unit {
    fn new(scope: &Scope, input: usize, output: usize) -> Unit {
        let init = Init::Normal((2.0 / (9 * output) as f64).sqrt());
        Unit {
            conv: Conv::new(&scope.sub("conv"), [output, input, 3], init, None),
            norm: BatchNorm::new(&scope.sub("bn"), output),
        }
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        Ok(ops::relu(&self.norm.forward(&self.conv.forward(x)?, training)?)?)
    }
}

/// Neck and head with their loss.
pub struct SemFpn {
    config: SemFpnConfig,
    lateral: Vec<Linear>,
    smooth: Vec<Conv>,
    scale_heads: Vec<Vec<Unit>>,
    conv_seg: Linear,
}

impl SemFpn {
    /// Gets every parameter from `root`, under `neck.` and `decode_head.`.
    pub fn new(root: &Scope, config: SemFpnConfig) -> SemFpn {
        let (neck, head) = (root.sub("neck"), root.sub("decode_head"));
        let (width, channels) = (config.neck, config.channels);
        let zero = || Some(Init::Constant(0.0));
        let lateral = neck.sub("lateral_convs");
        let smooth = neck.sub("fpn_convs");
        let scale = head.sub("scale_heads");
        // Units are at even places; the odd ones resize.
        let units = |level: usize| {
            let unit = |i: usize| {
                let from = if i == 0 { width } else { channels };
                Unit::new(&scale.sub(level).sub(2 * i), from, channels)
            };
            (0..level.max(1)).map(unit).collect()
        };
        let conv_seg = head.sub("conv_seg");
        SemFpn {
            lateral: (0..LEVELS)
                .map(|i| {
                    let input = config.in_channels[i];
                    let init = Init::xavier_uniform(input, width);
                    Linear::conv1x1(&lateral.sub(i).sub("conv"), [width, input], init, zero())
                })
                .collect(),
            smooth: (0..LEVELS)
                .map(|i| {
                    let init = Init::xavier_uniform(9 * width, 9 * width);
                    Conv::new(&smooth.sub(i).sub("conv"), [width, width, 3], init, zero())
                })
                .collect(),
            scale_heads: (0..LEVELS).map(units).collect(),
            conv_seg: Linear::conv1x1(
                &conv_seg,
                [config.classes, channels],
                Init::Normal(0.01),
                zero(),
            ),
            config,
        }
    }

    /// Maps of the neck `[b, h, w, neck]`, from fine to coarse.
    ///
    /// # Errors
    /// Other levels than four maps of the configured channels.
    pub fn neck(&self, levels: &[Level]) -> Result<Vec<Tensor>> {
        let _range = range("neck");
        let channels = |level: &Level| match *level.map.shape() {
            [_, _, _, c] => Some(c),
            _ => None,
        };
        if !levels.iter().map(channels).eq(self.config.in_channels.map(Some)) {
            let found: Vec<_> = levels.iter().map(|level| level.map.shape()).collect();
            return Err(ModelError::Config(format!(
                "the semantic FPN takes maps of {:?} channels, not {found:?}",
                self.config.in_channels
            )));
        }
        // The projection commutes with the resize, which is on its cheaper side.
        let project = |(lateral, level): (&Linear, &Level)| match level.factor > 1.0 {
            true => resize_by(&lateral.forward(&level.map)?, level.factor),
            false => lateral.forward(&level.resized()?),
        };
        let mut maps =
            self.lateral.iter().zip(levels).map(project).collect::<Result<Vec<Tensor>>>()?;
        for i in (1..LEVELS).rev() {
            let (h, w) = (maps[i - 1].dim(1), maps[i - 1].dim(2));
            maps[i - 1] = ops::add(&maps[i - 1], &ops::resize_nearest(&maps[i], h, w)?)?;
        }
        self.smooth.iter().zip(&maps).map(|(conv, map)| conv.forward(map)).collect()
    }

    /// Class logits `[b, k, h, w]` on the grid of the finest of the neck's maps, in f32. In training,
    /// `dropout` has a factor for each image and channel before the classifier.
    ///
    /// # Errors
    /// Other maps than those of [`SemFpn::neck`].
    pub fn head(
        &self,
        maps: &[Tensor],
        training: bool,
        dropout: Option<&Tensor>,
    ) -> Result<Tensor> {
        let _range = range("head.semfpn");
        let mut sum: Option<Tensor> = None;
        for (level, (units, map)) in self.scale_heads.iter().zip(maps).enumerate() {
            let mut y = map.clone();
            for unit in units {
                y = unit.forward(&y, training)?;
                if level > 0 {
                    y = ops::resize_to(&y, 2 * y.dim(1), 2 * y.dim(2))?;
                }
            }
            sum = Some(match sum {
                None => y,
                Some(sum) if y.shape() == sum.shape() => ops::add(&sum, &y)?,
                Some(sum) => ops::add(&sum, &ops::resize_to(&y, sum.dim(1), sum.dim(2))?)?,
            });
        }
        let sum = sum.ok_or_else(|| ModelError::Config("the neck made no map".into()))?;
        let sum = dropout.map_or(Ok(sum.clone()), |factors| ops::channel_scale(&sum, factors))?;
        classify(&self.conv_seg, &sum)
    }
}

impl PixelHead for SemFpn {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn logits(&self, features: &Features, mode: Mode<'_>) -> Result<Tensor> {
        let maps = self.neck(&features.levels)?;
        match mode {
            Mode::Training(dropout) => self.head(&maps, true, dropout),
            Mode::Evaluation => self.head(&maps, false, None),
        }
    }

    fn dropout(&self) -> (usize, f64) {
        (self.config.channels, self.config.dropout)
    }
}
