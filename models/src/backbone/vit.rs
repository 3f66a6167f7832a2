//! Vision transformers: one configuration for all published ones (spec backbones §2, §3.2, §4.1).

use std::sync::Arc;

use dressage_engine::ops::Activated;
use dressage_engine::{Param, Tensor, checkpoint, ops, range};
use serde::{Deserialize, Serialize};

use super::{Backbone, Level, PYRAMID};
use crate::adapter::{AdapterStep, NoAdapter, Site};
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Form of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ffn {
    /// fc1, exact GELU, fc2.
    Mlp,
    /// w12, silu(first half) * second half, w3 (DINOv2-g).
    Swiglu,
}

impl Ffn {
    /// Hidden width of DINOv2 for `c` channels and an MLP ratio of `ratio` (published: 4). SwiGLU
    /// has two branches; each has two thirds of `c * ratio`, rounded up to a multiple of 8.
    pub const fn hidden(self, c: usize, ratio: f64) -> usize {
        let hidden = (c as f64 * ratio) as usize;
        match self {
            Ffn::Mlp => hidden,
            Ffn::Swiglu => (hidden * 2 / 3).div_ceil(8) * 8,
        }
    }
}

/// Sizes and parts of a vision transformer: pre-norm blocks with layer scale on a class token,
/// registers and patches.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Width c.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the position table in patches.
    pub grid: usize,
    /// Form of the MLP.
    pub ffn: Ffn,
    /// Hidden width of the MLP, of one branch for SwiGLU.
    pub hidden: usize,
    /// Number of register tokens. With registers the position table is resized with antialiasing
    /// and without the 0.1 offset.
    pub registers: usize,
    /// Constant that the layer norms add to the variance.
    pub eps: f64,
    /// Blocks whose output is tapped, zero-based.
    pub taps: [usize; 4],
}

impl VitConfig {
    /// Taps of a network of this depth. For 24 blocks 7, 11, 15, 23 as released; elsewhere quarters
    /// of the depth.
    pub const fn default_taps(depth: usize) -> [usize; 4] {
        match depth {
            24 => [7, 11, 15, 23],
            40 => [9, 19, 29, 39],
            12 => [2, 5, 8, 11],
            d => [
                (d / 4).saturating_sub(1),
                (2 * d / 4).saturating_sub(1),
                (3 * d / 4).saturating_sub(1),
                d.saturating_sub(1),
            ],
        }
    }
}

struct Block {
    norm1: Norm,
    qkv: Linear,
    proj: Linear,
    ls1: Param,
    norm2: Norm,
    /// fc1 or w12.
    up: Linear,
    /// fc2 or w3.
    down: Linear,
    ls2: Param,
    ffn: Ffn,
    heads: usize,
    eps: f64,
}

impl Block {
    fn new(scope: &Scope, config: &VitConfig) -> Block {
        let (c, hidden) = (config.embed_dim, config.hidden);
        // The original uses a truncated normal; tails beyond two sigma do not matter here.
        let linear = |name: &str, input: usize, output: usize| {
            Linear::new(&scope.sub(name), input, output, Init::Normal(0.02), Init::Constant(0.0))
        };
        let gamma = |name: &str| scope.sub(name).param("gamma", &[c], Init::Constant(1.0));
        let (up, down) = match config.ffn {
            Ffn::Mlp => (linear("mlp.fc1", c, hidden), linear("mlp.fc2", hidden, c)),
            Ffn::Swiglu => (linear("mlp.w12", c, 2 * hidden), linear("mlp.w3", hidden, c)),
        };
        Block {
            norm1: Norm::new(&scope.sub("norm1"), c),
            qkv: linear("attn.qkv", c, 3 * c),
            proj: linear("attn.proj", c, c),
            ls1: gamma("ls1"),
            norm2: Norm::new(&scope.sub("norm2"), c),
            up,
            down,
            ls2: gamma("ls2"),
            ffn: config.ffn,
            heads: config.heads,
            eps: config.eps,
        }
    }

    /// x + ls1 Attn(LN1 x), then + ls2 MLP(LN2 x), with the hooks of `adapter` for block `i`; x is
    /// `[b, t, c]`.
    fn forward(&self, i: usize, x: &Tensor, adapter: &dyn AdapterStep) -> Result<Tensor> {
        let (b, t, c, eps) = (x.dim(0), x.dim(1), x.dim(2), self.eps);
        let part = range("attention");
        let qkv = self.qkv.forward_normed(&self.norm1, x, eps)?;
        let more = adapter.at_linear(i, Site::Qkv, &|| self.norm1.layer_norm(x, eps))?;
        let qkv = with(qkv, more, None)?;
        let qkv = ops::reshape(&qkv, &[b, t, 3, self.heads, c / self.heads])?;
        let a = ops::self_attention(&qkv)?;
        let y = self.proj.residual(x, &a, Activated::Plain, &self.ls1)?;
        let more = adapter.at_linear(i, Site::Proj, &|| Ok(a.clone()))?;
        let x = with(y, more, Some(&self.ls1))?;
        drop(part);
        let _part = range("mlp");
        let h = self.up.forward_normed(&self.norm2, &x, eps)?;
        let more = adapter.at_linear(i, Site::Up, &|| self.norm2.layer_norm(&x, eps))?;
        let mut h = with(h, more, None)?;
        let mut f = Activated::Gelu;
        if self.ffn == Ffn::Swiglu {
            (h, f) = (ops::swiglu(&h)?, Activated::Plain);
        }
        let y = self.down.residual(&x, &h, f, &self.ls2)?;
        let activated = || match self.ffn {
            Ffn::Mlp => Ok(ops::gelu(&h)?),
            Ffn::Swiglu => Ok(h.clone()),
        };
        let y = with(y, adapter.at_linear(i, Site::Down, &activated)?, Some(&self.ls2))?;
        with(y, adapter.beside_mlp(i, &x)?, None)
    }
}

/// `y + scale * more`, a scale of one if there is none; `y` itself if there is no more.
fn with(y: Tensor, more: Option<Tensor>, scale: Option<&Param>) -> Result<Tensor> {
    match more {
        Some(more) => Ok(ops::residual(&y, &more, scale.map(Param::get).as_ref())?),
        None => Ok(y),
    }
}

/// A vision transformer.
pub struct Vit {
    config: VitConfig,
    patch_weight: Param,
    patch_bias: Param,
    cls_token: Param,
    register_tokens: Option<Param>,
    pos_embed: Param,
    blocks: Vec<Arc<Block>>,
    norm: Norm,
}

impl Vit {
    /// Gets every parameter from `scope` under the reference's names.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(scope: &Scope, config: VitConfig) -> Result<Vit> {
        let (c, p) = (config.embed_dim, config.patch);
        if config.heads == 0 || !c.is_multiple_of(config.heads) {
            let text = format!("embed_dim {c} does not divide into {} heads", config.heads);
            return Err(ModelError::Config(text));
        }
        let deepest = config.taps.iter().max().copied().unwrap_or(0);
        if deepest >= config.depth {
            let text = format!("tap {deepest} is beyond the last of {} blocks", config.depth);
            return Err(ModelError::Config(text));
        }
        let patch = scope.sub("patch_embed").sub("proj");
        let normal = Init::Normal(0.02);
        let blocks = (0..config.depth)
            .map(|i| Arc::new(Block::new(&scope.sub("blocks").sub(i), &config)))
            .collect();
        let registers = config.registers;
        Ok(Vit {
            patch_weight: patch.param("weight", &[c, 3, p, p], normal.clone()),
            patch_bias: patch.param("bias", &[c], Init::Constant(0.0)),
            cls_token: scope.param("cls_token", &[1, 1, c], normal.clone()),
            register_tokens: (registers > 0)
                .then(|| scope.param("register_tokens", &[1, registers, c], normal.clone())),
            pos_embed: scope.param("pos_embed", &[1, 1 + config.grid * config.grid, c], normal),
            norm: Norm::new(&scope.sub("norm"), c),
            blocks,
            config,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Tokens in front of the patches: the class token and registers.
    pub fn lead(&self) -> usize {
        1 + self.config.registers
    }

    /// Position table `[1 + gh*gw, c]` for a grid of patches. The table is used as stored if the
    /// grid has its size. Otherwise it is resized: by a factor of (n + 0.1)/g per axis, or with
    /// registers to the exact size with antialiasing.
    ///
    /// # Errors
    /// Errors of the engine.
    pub fn positions(&self, gh: usize, gw: usize) -> Result<Tensor> {
        let (g, c) = (self.config.grid, self.config.embed_dim);
        let table = ops::reshape(&self.pos_embed.get(), &[1 + g * g, c])?;
        // A grid that is not square is resized even if its count is equal, as 2x8 for a table of
        // 4x4.
        if gh == g && gw == g {
            return Ok(table);
        }
        let map = ops::reshape(&ops::rows(&table, 1, g * g)?, &[1, g, g, c])?;
        let map = if self.config.registers > 0 {
            ops::resize_bicubic_antialiased(&map, gh, gw)?
        } else {
            let factor = |n: usize| (n as f64 + 0.1) / g as f64;
            ops::resize_bicubic_by_factor(&map, [factor(gh), factor(gw)], [gh, gw])?
        };
        let map = ops::reshape(&map, &[gh * gw, c])?;
        Ok(ops::concat(&[&ops::rows(&table, 0, 1)?, &map], 0)?)
    }

    /// Tokens `[b, lead + n, c]` before the first block, and the grid of patches.
    ///
    /// # Errors
    /// An image whose sides are not multiples of the patch.
    pub fn embed(&self, image: &Tensor) -> Result<(Tensor, usize, usize)> {
        let p = self.config.patch;
        let &[_, 3, h, w] = image.shape() else {
            let text = format!("image is {:?}, expected [b, 3, h, w]", image.shape());
            return Err(ModelError::Config(text));
        };
        if !h.is_multiple_of(p) || !w.is_multiple_of(p) || h == 0 || w == 0 {
            let text = format!("image is {h}x{w}, both sides must be multiples of the patch {p}");
            return Err(ModelError::Config(text));
        }
        let (gh, gw, c) = (h / p, w / p, self.config.embed_dim);
        let patches =
            ops::patch_embed(image, &self.patch_weight.get(), Some(&self.patch_bias.get()))?;
        let pos = self.positions(gh, gw)?;
        let patches = ops::add(&patches, &ops::rows(&pos, 1, gh * gw)?)?;
        let cls = ops::reshape(&self.cls_token.get(), &[1, c])?;
        let mut lead = ops::add(&cls, &ops::rows(&pos, 0, 1)?)?;
        if let Some(registers) = &self.register_tokens {
            // Appended after the positions are added, because registers have none.
            let registers = ops::reshape(&registers.get(), &[self.config.registers, c])?;
            lead = ops::concat(&[&lead, &registers], 0)?;
        }
        Ok((ops::prepend(&lead, &patches)?, gh, gw))
    }

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
        let (block, lead) = (self.blocks[i].clone(), self.lead());
        let adapter = adapter.cloned();
        let _range = range(format_args!("backbone.block {i}"));
        Ok(checkpoint(std::slice::from_ref(x), move |x| {
            let adapter = adapter.as_deref().unwrap_or(&NoAdapter);
            let entered = adapter.enter(i, x[0].clone());
            let y = entered.and_then(|x| block.forward(i, &x, adapter));
            let y = y.and_then(|y| adapter.leave(i, y, lead));
            y.map_err(|error| error.into_engine("block", &x[0]))
        })?)
    }

    /// Applies the final norm, which is not applied to the tapped features.
    ///
    /// # Errors
    /// If `x` has another width.
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.layer_norm(x, self.config.eps)
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
        let embedding = range("backbone.embed");
        let (mut x, gh, gw) = self.embed(image)?;
        drop(embedding);
        let (b, c, lead) = (x.dim(0), self.config.embed_dim, self.lead());
        let mut levels = Vec::with_capacity(4);
        for i in 0..self.config.depth {
            x = self.block(i, &x, adapter)?;
            for (tap, factor) in self.config.taps.iter().zip(PYRAMID) {
                if *tap == i {
                    let map = ops::narrow(&x, 1, lead, gh * gw)?;
                    levels.push(Level { map: ops::reshape(&map, &[b, gh, gw, c])?, factor });
                }
            }
        }
        Ok(levels)
    }
}
