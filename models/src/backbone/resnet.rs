//! ResNet with bottlenecks: four stages at strides 4 to 32, or dilated at 4 and 8 (spec backbones
//! §4.6).

use std::sync::Arc;

use dressage_engine::{Tensor, checkpoint, ops, range};
use serde::{Deserialize, Serialize};

use super::{Backbone, Level, Stage, adapted, check_image};
use crate::adapter::{AdapterStep, NoAdapter};
use crate::generator::Generator;
use crate::layers::{BatchNorm, Conv, Placement};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// First layers of a ResNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// Three 3x3 convolutions, the first with stride 2: the variant V1c.
    Deep,
    /// One 7x7 convolution with stride 2.
    Single,
}

/// Sizes and parts of a ResNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResNetConfig {
    /// First layers.
    pub stem: Stem,
    /// Channels of the stem.
    pub stem_width: usize,
    /// Channels within the bottlenecks of each stage; its maps have four times as many.
    pub widths: [usize; 4],
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Whether the last two stages dilate their kernels instead of halving the map.
    pub dilated: bool,
    /// Whether full training leaves the running statistics as they are and normalises by them.
    pub frozen_statistics: bool,
}

/// Channels of a map per channel within the bottleneck.
const EXPANSION: usize = 4;

impl ResNetConfig {
    /// The published form: each stage is twice as wide as the one before.
    pub const fn doubling(stem: Stem, width: usize, depths: [usize; 4]) -> ResNetConfig {
        let widths = [width, 2 * width, 4 * width, 8 * width];
        let (dilated, frozen_statistics) = (false, false);
        ResNetConfig { stem, stem_width: width, widths, depths, dilated, frozen_statistics }
    }

    /// Blocks and channels of each stage.
    pub fn stages(&self) -> [Stage; 4] {
        std::array::from_fn(|i| Stage { blocks: self.depths[i], width: EXPANSION * self.widths[i] })
    }

    /// Stride of a stage, and the dilations of its first block and of the others.
    fn steps(&self, stage: usize) -> (usize, [usize; 2]) {
        match (stage, self.dilated) {
            (0, _) => (1, [1, 1]),
            (2, true) => (1, [1, 2]),
            (3, true) => (1, [2, 4]),
            _ => (2, [1, 1]),
        }
    }
}

/// A convolution without bias, and batch norm.
struct ConvNorm {
    conv: Conv,
    norm: Arc<BatchNorm>,
}

impl ConvNorm {
    /// `shape` is `[out, in, k]`; the scopes are those of convolution and norm.
    fn new([conv, norm]: [&Scope; 2], shape: [usize; 3], placement: Placement) -> ConvNorm {
        let [output, _, k] = shape;
        let init = Init::Normal((2.0 / (output * k * k) as f64).sqrt());
        ConvNorm {
            conv: Conv::placed(conv, shape, placement, init, None),
            norm: BatchNorm::new(norm, output),
        }
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        self.norm.forward(&self.conv.forward(x)?, training)
    }

    fn forward_relu(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        Ok(ops::relu(&self.forward(x, training)?)?)
    }
}

/// A bottleneck: `relu(shortcut(x) + expand(spatial(reduce(x))))`.
struct Block {
    reduce: ConvNorm,
    spatial: ConvNorm,
    expand: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl Block {
    fn new(scope: &Scope, input: usize, width: usize, at: Placement, first: bool) -> Block {
        let layer = |i: usize, shape: [usize; 3], placement| {
            let (conv, norm) = (scope.sub(format!("conv{i}")), scope.sub(format!("bn{i}")));
            ConvNorm::new([&conv, &norm], shape, placement)
        };
        let (output, down) = (EXPANSION * width, scope.sub("downsample"));
        let beside = Placement { stride: at.stride, ..Placement::default() };
        Block {
            reduce: layer(1, [width, input, 1], Placement::default()),
            spatial: layer(2, [width, width, 3], at),
            expand: layer(3, [output, width, 1], Placement::default()),
            shortcut: first
                .then(|| ConvNorm::new([&down.sub(0), &down.sub(1)], [output, input, 1], beside)),
        }
    }

    fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let y = self.reduce.forward_relu(x, training)?;
        let y = self.spatial.forward_relu(&y, training)?;
        let y = self.expand.forward(&y, training)?;
        let shortcut =
            self.shortcut.as_ref().map(|layer| layer.forward(x, training)).transpose()?;
        Ok(ops::relu(&ops::residual(shortcut.as_ref().unwrap_or(x), &y, None)?)?)
    }
}

/// A ResNet.
pub struct ResNet {
    config: ResNetConfig,
    stem: Vec<ConvNorm>,
    stages: Vec<Vec<Arc<Block>>>,
}

impl ResNet {
    /// Gets every parameter from `scope`, under torchvision's names and, in a deep stem, OpenMMLab's.
    ///
    /// # Errors
    /// A stage without blocks or channels, or a stem that cannot be halved.
    pub fn new(scope: &Scope, config: ResNetConfig) -> Result<ResNet> {
        let ResNetConfig { stem_width: stem, widths, depths, .. } = config;
        let whole = stem > 0 && stem.is_multiple_of(2);
        if !whole || widths.iter().chain(&depths).any(|n| *n == 0) {
            let text = format!("stages of {depths:?} blocks, {widths:?} channels, stem of {stem}");
            return Err(ModelError::Config(format!(
                "{text}: each needs one or more, the stem two"
            )));
        }
        let mut input = stem;
        let mut stages = Vec::with_capacity(4);
        for (s, stage) in config.stages().iter().enumerate() {
            let (stride, [first, others]) = config.steps(s);
            let layer = scope.sub(format!("layer{}", s + 1));
            let block = |i: usize| {
                let (stride, dilation) = if i == 0 { (stride, first) } else { (1, others) };
                let input = if i == 0 { input } else { stage.width };
                let at = Placement { stride, pad: dilation, dilation };
                Arc::new(Block::new(&layer.sub(i), input, widths[s], at, i == 0))
            };
            stages.push((0..stage.blocks).map(block).collect());
            input = stage.width;
        }
        Ok(ResNet { stem: Self::stem(scope, &config), stages, config })
    }

    fn stem(scope: &Scope, config: &ResNetConfig) -> Vec<ConvNorm> {
        let c = config.stem_width;
        let halving = |pad| Placement { stride: 2, pad, dilation: 1 };
        match config.stem {
            Stem::Single => {
                let scopes = [&scope.sub("conv1"), &scope.sub("bn1")];
                vec![ConvNorm::new(scopes, [c, 3, 7], halving(3))]
            }
            Stem::Deep => {
                let stem = scope.sub("stem");
                let same = Placement { stride: 1, pad: 1, dilation: 1 };
                let shapes = [[c / 2, 3, 3], [c / 2, c / 2, 3], [c, c / 2, 3]];
                let layer = |(i, shape)| {
                    let at = if i == 0 { halving(1) } else { same };
                    ConvNorm::new([&stem.sub(3 * i), &stem.sub(3 * i + 1)], shape, at)
                };
                shapes.into_iter().enumerate().map(layer).collect()
            }
        }
    }

    /// The map `[b, h / 4, w / 4, c]` that enters the first stage.
    ///
    /// # Errors
    /// An image of another form, or too small.
    pub fn reduced(&self, image: &Tensor, training: bool) -> Result<Tensor> {
        let _range = range("backbone.stem");
        check_image(image, 1, "a pixel")?;
        let &[b, c, h, w] = image.shape() else { return Ok(image.clone()) };
        let rows = ops::transpose(&ops::reshape(image, &[b, c, h * w])?)?;
        let mut x = ops::reshape(&rows, &[b, h, w, c])?;
        for layer in &self.stem {
            x = layer.forward_relu(&x, training)?;
        }
        Ok(ops::max_pool(&x, 3, 2, 1)?)
    }

    /// The maps of all stages from that of the stem.
    ///
    /// # Errors
    /// Maps that are too small.
    pub fn pyramid(
        &self,
        mut x: Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
        training: bool,
    ) -> Result<Vec<Level>> {
        let mut i = 0;
        let mut levels = Vec::with_capacity(4);
        for blocks in &self.stages {
            for block in blocks {
                let _range = range(format_args!("backbone.block {i}"));
                let (block, adapter) = (block.clone(), adapter.cloned());
                x = checkpoint(&[x], move |x| {
                    let adapter = adapter.as_deref().unwrap_or(&NoAdapter);
                    let y = block.forward(&x[0], training);
                    let y = y.and_then(|y| adapted(adapter, i, &y));
                    y.map_err(|error| error.into_engine("block", &x[0]))
                })?;
                i += 1;
            }
            levels.push(Level::plain(x.clone()));
        }
        Ok(levels)
    }
}

impl Backbone for ResNet {
    fn widths(&self) -> [usize; 4] {
        self.config.stages().map(|stage| stage.width)
    }

    fn multiple(&self) -> usize {
        1
    }

    fn forward(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
    ) -> Result<Vec<Level>> {
        self.pyramid(self.reduced(image, false)?, adapter, false)
    }

    fn train(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
        _: &Generator,
    ) -> Result<Vec<Level>> {
        let training = !self.config.frozen_statistics;
        self.pyramid(self.reduced(image, training)?, adapter, training)
    }
}
