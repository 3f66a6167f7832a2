//! ConvNeXt: four stages of depthwise convolutions with MLPs, at strides 4 to 32 (spec backbones
//! §4.7).

use std::sync::Arc;

use dressage_engine::ops::Activated;
use dressage_engine::{Param, Tensor, checkpoint, ops, range};

use super::{Backbone, Level, Stage, adapted, check_image};
use crate::adapter::{AdapterStep, NoAdapter};
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes of a ConvNeXt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvNextConfig {
    /// Channels of each stage.
    pub widths: [usize; 4],
    /// Blocks of each stage.
    pub depths: [usize; 4],
}

impl ConvNextConfig {
    /// The published form: each stage has twice the channels of the one before.
    pub const fn doubling(width: usize, depths: [usize; 4]) -> ConvNextConfig {
        ConvNextConfig { widths: [width, 2 * width, 4 * width, 8 * width], depths }
    }

    /// Blocks and channels of each stage.
    pub fn stages(&self) -> [Stage; 4] {
        std::array::from_fn(|i| Stage { blocks: self.depths[i], width: self.widths[i] })
    }
}

/// Constant that the layer norms add to the variance.
const EPS: f64 = 1e-6;

/// Sides of the kernel between two stages and of the stem, which is also its step.
const DOWN: usize = 2;
const STEM: usize = 4;

/// Side of the depthwise kernels.
const KERNEL: usize = 7;

/// A convolution without overlap, with a bias.
struct Patches {
    weight: Param,
    bias: Param,
}

impl Patches {
    fn new(scope: &Scope, [input, output]: [usize; 2], side: usize) -> Patches {
        Patches {
            weight: scope.param("weight", &[output, input, side, side], Init::Normal(0.02)),
            bias: scope.param("bias", &[output], Init::Constant(0.0)),
        }
    }
}

/// A block: `x + gamma MLP(norm(depthwise(x)))`.
struct Block {
    depthwise: Patches,
    norm: Norm,
    up: Linear,
    down: Linear,
    gamma: Param,
}

impl Block {
    fn new(scope: &Scope, c: usize) -> Block {
        let linear = |name: &str, input, output| {
            Linear::new(&scope.sub(name), input, output, Init::Normal(0.02), Init::Constant(0.0))
        };
        Block {
            depthwise: Patches::new(&scope.sub("depthwise_conv"), [1, c], KERNEL),
            norm: Norm::new(&scope.sub("norm"), c),
            up: linear("pointwise_conv1", c, 4 * c),
            down: linear("pointwise_conv2", 4 * c, c),
            gamma: scope.param("gamma", &[c], Init::Constant(1.0)),
        }
    }

    /// The block on a map `[b, h, w, c]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Patches { weight, bias } = &self.depthwise;
        let y = ops::depthwise_conv(x, &weight.get(), Some(&bias.get()), KERNEL / 2)?;
        let y = self.up.forward_normed(&self.norm, &y, EPS)?;
        self.down.residual(x, &y, Activated::Gelu, Some(&self.gamma))
    }
}

/// What precedes the blocks of a stage, and the norm of its tapped map.
struct Step {
    /// The stem, or the convolution that halves the map.
    down: Patches,
    /// Norm after the stem, or before the convolution.
    norm: Norm,
    tap: Norm,
    blocks: Vec<Arc<Block>>,
}

/// A ConvNeXt.
pub struct ConvNext {
    config: ConvNextConfig,
    stages: Vec<Step>,
}

impl ConvNext {
    /// Gets every parameter from `scope` under OpenMMLab's names.
    ///
    /// # Errors
    /// A stage without blocks or channels.
    pub fn new(scope: &Scope, config: ConvNextConfig) -> Result<ConvNext> {
        if config.stages().iter().any(|stage| stage.blocks == 0 || stage.width == 0) {
            let ConvNextConfig { widths, depths } = config;
            let text = format!("stages of {depths:?} blocks and {widths:?} channels");
            return Err(ModelError::Config(format!("{text}: each needs one of both or more")));
        }
        let (reductions, all) = (scope.sub("downsample_layers"), scope.sub("stages"));
        let stage = |i: usize| {
            let (c, reduction, blocks) = (config.widths[i], reductions.sub(i), all.sub(i));
            let (down, norm) = match i.checked_sub(1) {
                None => {
                    (Patches::new(&reduction.sub(0), [3, c], STEM), Norm::new(&reduction.sub(1), c))
                }
                Some(before) => (
                    Patches::new(&reduction.sub(1), [config.widths[before], c], DOWN),
                    Norm::new(&reduction.sub(0), config.widths[before]),
                ),
            };
            let block = |k| Arc::new(Block::new(&blocks.sub(k), c));
            let blocks = (0..config.depths[i]).map(block).collect();
            Step { down, norm, tap: Norm::new(&scope.sub(format!("norm{i}")), c), blocks }
        };
        Ok(ConvNext { stages: (0..4).map(stage).collect(), config })
    }

    /// Sizes.
    pub fn config(&self) -> &ConvNextConfig {
        &self.config
    }

    /// The map `[b, h, w, c]` that enters stage `i`, from the image or the map of the stage before.
    ///
    /// # Errors
    /// An image or a map of another form.
    pub fn reduce(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        let Step { down: Patches { weight, bias }, norm, .. } = &self.stages[i];
        let (weight, bias) = (weight.get(), bias.get());
        if i > 0 {
            let x = norm.layer_norm(x, EPS)?;
            return Ok(ops::conv2d(&x, &weight, Some(&bias), DOWN, 0)?);
        }
        let tokens = ops::patch_embed(x, &weight, Some(&bias))?;
        let (h, w) = (x.dim(2) / STEM, x.dim(3) / STEM);
        let map = ops::reshape(&tokens, &[x.dim(0), h, w, tokens.last_dim()])?;
        norm.layer_norm(&map, EPS)
    }

    /// The map after the blocks of stage `i`, with the hooks of `adapter` after each. These count the
    /// blocks of all stages.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn blocks(
        &self,
        i: usize,
        mut x: Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
    ) -> Result<Tensor> {
        let first: usize = self.config.depths[..i].iter().sum();
        for (k, block) in (first..).zip(&self.stages[i].blocks) {
            let _range = range(format_args!("backbone.block {k}"));
            let (block, adapter) = (block.clone(), adapter.cloned());
            x = checkpoint(&[x], move |x| {
                let adapter = adapter.as_deref().unwrap_or(&NoAdapter);
                let y = block.forward(&x[0]).and_then(|y| adapted(adapter, k, &y));
                y.map_err(|error| error.into_engine("block", &x[0]))
            })?;
        }
        Ok(x)
    }

    /// The tapped map of stage `i`, from the one after its blocks.
    ///
    /// # Errors
    /// If `x` has another width.
    pub fn tap(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        self.stages[i].tap.layer_norm(x, EPS)
    }
}

impl Backbone for ConvNext {
    fn widths(&self) -> [usize; 4] {
        self.config.widths
    }

    fn multiple(&self) -> usize {
        STEM * DOWN.pow(3)
    }

    fn forward(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
    ) -> Result<Vec<Level>> {
        check_image(image, self.multiple(), "the coarsest stride")?;
        let mut x = image.clone();
        let mut levels = Vec::with_capacity(4);
        for i in 0..self.stages.len() {
            let reducing = range(format_args!("backbone.reduce {i}"));
            x = self.reduce(i, &x)?;
            drop(reducing);
            x = self.blocks(i, x, adapter)?;
            levels.push(Level::plain(self.tap(i, &x)?));
        }
        Ok(levels)
    }
}
