//! Vision transformers: one network for all published ones (spec backbones §2, §3.2, §4.1 to §4.5,
//! dinov3 §3).

mod block;
mod config;
mod grid;

use std::sync::Arc;

use dressage_engine::{DType, Param, Tensor, checkpoint, ops, range};
use dressage_kernels::ops::rotary::periods;

pub use config::{
    ClassToken, Ffn, PositionTable, QkvBias, RotaryEmbedding, VitConfig, WindowConfig,
};

use block::Block;
use grid::Grid;

use super::{Backbone, Level, PYRAMID, check_image};
use crate::adapter::{AdapterStep, NoAdapter};
use crate::generator::{Dropout, Generator};
use crate::layers::Norm;
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// A vision transformer.
pub struct Vit {
    config: VitConfig,
    patch_weight: Param,
    patch_bias: Option<Param>,
    cls_token: Option<Param>,
    register_tokens: Option<Param>,
    pos_embed: Option<Param>,
    /// Periods `[d/4]` of a rotation by halves.
    periods: Vec<f64>,
    pre_norm: Option<Norm>,
    blocks: Vec<Arc<Block>>,
    norm: Option<Norm>,
}

impl Vit {
    /// Gets every parameter from `scope` under the names of DINOv2.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(scope: &Scope, config: VitConfig) -> Result<Vit> {
        checked(&config)?;
        let (c, p, registers) = (config.embed_dim, config.patch, config.registers);
        let patch = scope.sub("patch_embed").sub("proj");
        let normal = Init::Normal(0.02);
        let token =
            |name: &str, n: usize| (n > 0).then(|| scope.param(name, &[1, n, c], normal.clone()));
        let classes = usize::from(config.class_token != ClassToken::Absent);
        let table = config.positions != PositionTable::Absent;
        let blocks = (0..config.depth)
            .map(|i| Arc::new(Block::new(&scope.sub("blocks").sub(i), &config, i)))
            .collect();
        Ok(Vit {
            patch_weight: patch.param("weight", &[c, 3, p, p], normal.clone()),
            patch_bias: config.patch_bias.then(|| patch.param("bias", &[c], Init::Constant(0.0))),
            cls_token: token("cls_token", classes),
            register_tokens: token("register_tokens", registers),
            pos_embed: table
                .then(|| scope.param("pos_embed", &config.table_shape(), normal.clone())),
            periods: Vit::periods(scope, &config)?,
            pre_norm: config.pre_norm.then(|| Norm::new(&scope.sub("pre_norm"), c)),
            norm: config.final_norm.then(|| Norm::new(&scope.sub("norm"), c)),
            blocks,
            config,
        })
    }

    /// Periods of a rotation by halves. A file of DINOv3's authors has its own, rounded to bf16.
    fn periods(scope: &Scope, config: &VitConfig) -> Result<Vec<f64>> {
        if config.rotary != Some(RotaryEmbedding::Halves) {
            return Ok(Vec::new());
        }
        let computed = periods(config.embed_dim / config.heads);
        let (shape, scope) = ([computed.len()], scope.sub("rope_embed"));
        let stored = scope.buffer("periods", &shape, Init::Values(computed)).get();
        Ok(match stored.dtype() {
            DType::F64 => stored.data::<f64>()?.to_vec(),
            _ => stored.data::<f32>()?.iter().map(|&period| f64::from(period)).collect(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Position table for a grid of patches, `[lead rows + gh*gw, c]` with one row for the class
    /// token. `None` if the network has none.
    ///
    /// It is used as stored if the grid has its size, and else resized as [`PositionTable`] says.
    ///
    /// # Errors
    /// Errors of the engine.
    pub fn positions(&self, gh: usize, gw: usize) -> Result<Option<Tensor>> {
        let Some(table) = &self.pos_embed else { return Ok(None) };
        let (g, c) = (self.config.grid, self.config.embed_dim);
        let class = usize::from(self.cls_token.is_some());
        let table = ops::reshape(&table.get(), &[class + g * g, c])?;
        // A grid that is not square is resized even if its count is equal, as 2x8 for a table of
        // 4x4.
        if gh == g && gw == g {
            return Ok(Some(table));
        }
        let map = match class {
            0 => table.clone(),
            _ => ops::rows(&table, class, g * g)?,
        };
        let map = ops::reshape(&map, &[1, g, g, c])?;
        let map = match self.config.positions {
            PositionTable::Dinov2 if self.config.registers == 0 => {
                let factor = |n: usize| (n as f64 + 0.1) / g as f64;
                ops::resize_bicubic_by_factor(&map, [factor(gh), factor(gw)], [gh, gw])?
            }
            PositionTable::Dinov2 => ops::resize_bicubic_antialiased(&map, gh, gw)?,
            PositionTable::Bilinear => ops::resize_to(&map, gh, gw)?,
            PositionTable::Bicubic | PositionTable::Absent => ops::resize_bicubic(&map, gh, gw)?,
        };
        let map = ops::reshape(&map, &[gh * gw, c])?;
        match class {
            0 => Ok(Some(map)),
            _ => Ok(Some(ops::concat(&[&ops::rows(&table, 0, class)?, &map], 0)?)),
        }
    }

    /// Embedded patches `[b, n, c]` without positions, and the grid of patches.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn patches(&self, image: &Tensor) -> Result<(Tensor, usize, usize)> {
        let p = self.config.patch;
        check_image(image, p, "the patch")?;
        let (h, w) = (image.dim(2), image.dim(3));
        let bias = self.patch_bias.as_ref().map(Param::get);
        let patches = ops::patch_embed(image, &self.patch_weight.get(), bias.as_ref())?;
        Ok((patches, h / p, w / p))
    }

    /// Tokens `[b, lead + n, c]` before the first norm, and the grid of patches.
    ///
    /// # Errors
    /// As [`Vit::patches`].
    pub fn embed(&self, image: &Tensor) -> Result<(Tensor, usize, usize)> {
        let (mut patches, gh, gw) = self.patches(image)?;
        let positions = self.positions(gh, gw)?;
        if let Some(table) = &positions {
            let rows = ops::rows(table, table.dim(0) - gh * gw, gh * gw)?;
            patches = ops::add(&patches, &rows)?;
        }
        let tokens = match self.leading(positions.as_ref())? {
            Some(lead) => ops::prepend(&lead, &patches)?,
            None => patches,
        };
        Ok((tokens, gh, gw))
    }

    /// The class token at its position and the registers, `[lead, c]`.
    fn leading(&self, positions: Option<&Tensor>) -> Result<Option<Tensor>> {
        let c = self.config.embed_dim;
        let mut parts = Vec::new();
        if let Some(token) = &self.cls_token {
            let mut class = ops::reshape(&token.get(), &[1, c])?;
            if self.config.class_token == ClassToken::Twice {
                class = ops::add(&class, &class)?;
            }
            parts.push(match positions {
                Some(table) => ops::add(&class, &ops::rows(table, 0, 1)?)?,
                None => class,
            });
        }
        if let Some(registers) = &self.register_tokens {
            // Appended after the positions are added, because registers have none.
            parts.push(ops::reshape(&registers.get(), &[self.config.registers, c])?);
        }
        match &parts[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            _ => Ok(Some(ops::concat(&parts.iter().collect::<Vec<_>>(), 0)?)),
        }
    }

    /// A pass over the blocks for tokens `x` of [`Vit::embed`] on a grid of `gh` by `gw` patches.
    ///
    /// # Errors
    /// Errors of the engine.
    pub fn pass(&self, x: &Tensor, gh: usize, gw: usize) -> Result<Pass<'_>> {
        let grid = Grid::new(&self.config, &self.periods, x, [gh, gw])?;
        Ok(Pass { vit: self, grid, drop_path: None })
    }

    /// Tokens that enter the first block, from those of [`Vit::embed`].
    ///
    /// # Errors
    /// If `x` has another width.
    pub fn pre_norm(&self, x: Tensor) -> Result<Tensor> {
        match &self.pre_norm {
            Some(norm) => norm.layer_norm(&x, self.config.eps),
            None => Ok(x),
        }
    }

    /// Applies the final norm; `x` itself if there is none.
    ///
    /// # Errors
    /// If `x` has another width.
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        match &self.norm {
            Some(norm) => norm.layer_norm(x, self.config.eps),
            None => Ok(x.clone()),
        }
    }

    /// The tapped maps of `image`; those of a training step if there is a generator.
    fn pyramid(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
        generator: Option<&Generator>,
    ) -> Result<Vec<Level>> {
        let embedding = range("backbone.embed");
        let (x, gh, gw) = self.embed(image)?;
        let drop_path = Dropout::new(generator, self.config.drop_path).map(Arc::new);
        let pass = Pass { drop_path, ..self.pass(&x, gh, gw)? };
        let mut x = self.pre_norm(x)?;
        drop(embedding);
        let mut levels = Vec::with_capacity(4);
        for i in 0..self.config.depth {
            x = pass.block(i, &x, adapter)?;
            for (tap, factor) in self.config.taps.iter().zip(PYRAMID) {
                if *tap == i {
                    levels.push(Level { map: pass.map(&x)?, factor });
                }
            }
        }
        Ok(levels)
    }
}

/// Refuses sizes that do not fit together.
fn checked(config: &VitConfig) -> Result<()> {
    let (c, heads, depth) = (config.embed_dim, config.heads, config.depth);
    let deepest = config.taps.iter().max().copied().unwrap_or(0);
    let text = if heads == 0 || !c.is_multiple_of(heads) {
        format!("embed_dim {c} does not divide into {heads} heads")
    } else if config.rotary.is_some() && !(c / heads).is_multiple_of(4) {
        format!("heads of {} channels do not divide into pairs for two axes", c / heads)
    } else if config.windows.is_some_and(|windows| windows.side == 0 || windows.global_rows == 0) {
        "windows of no patches".into()
    } else if deepest >= depth {
        format!("tap {deepest} is beyond the last of {depth} blocks")
    } else {
        return Ok(());
    };
    Err(ModelError::Config(text))
}

/// A pass over the blocks of a network for one grid of patches.
pub struct Pass<'a> {
    vit: &'a Vit,
    grid: Grid,
    /// Stochastic depth of a training step.
    drop_path: Option<Arc<Dropout>>,
}

impl Pass<'_> {
    /// Tokens after block `i` and the hooks of `adapter` in it. `x` is `[b, lead + n, c]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn block(
        &self,
        i: usize,
        x: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
    ) -> Result<Tensor> {
        let (block, grid) = (self.vit.blocks[i].clone(), self.grid.clone());
        let (adapter, drop_path) = (adapter.cloned(), self.drop_path.clone());
        let _range = range(format_args!("backbone.block {i}"));
        Ok(checkpoint(std::slice::from_ref(x), move |x| {
            let adapter = adapter.as_deref().unwrap_or(&NoAdapter);
            let entered = adapter.enter(i, x[0].clone());
            let y =
                entered.and_then(|x| block.forward(i, &x, &grid, adapter, drop_path.as_deref()));
            let y = y.and_then(|y| adapter.leave(i, y, grid.lead));
            y.map_err(|error| error.into_engine("block", &x[0]))
        })?)
    }

    /// The map `[b, gh, gw, c]` of the patches of `x`, through the final norm where maps are normed.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn map(&self, x: &Tensor) -> Result<Tensor> {
        let Grid { b, size: [gh, gw], lead, .. } = self.grid;
        let patches = match lead {
            0 => x.clone(),
            _ => ops::narrow(x, 1, lead, self.grid.patches())?,
        };
        let patches = match self.vit.config.tap_norm {
            true => self.vit.final_norm(&patches)?,
            false => patches,
        };
        Ok(ops::reshape(&patches, &[b, gh, gw, self.vit.config.embed_dim])?)
    }
}

impl Backbone for Vit {
    fn widths(&self) -> [usize; 4] {
        [self.config.embed_dim; 4]
    }

    fn multiple(&self) -> usize {
        self.config.patch
    }

    fn forward(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
    ) -> Result<Vec<Level>> {
        self.pyramid(image, adapter, None)
    }

    fn train(
        &self,
        image: &Tensor,
        adapter: Option<&Arc<dyn AdapterStep>>,
        generator: &Generator,
    ) -> Result<Vec<Level>> {
        self.pyramid(image, adapter, Some(generator))
    }
}
