//! A pre-norm block of a vision transformer (spec backbones §2.2 to §2.4, §4.5).

use dressage_engine::ops::Activated;
use dressage_engine::{Param, Tensor, ops, range};

use super::config::{Ffn, QkvBias, VitConfig};
use super::grid::Grid;
use crate::Result;
use crate::adapter::{AdapterStep, Site};
use crate::generator::{Dropout, Dropped};
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};

/// The packed layer of queries, keys and values.
struct Qkv {
    layer: Linear,
    /// Biases of queries and values, if the layer has none of its own.
    parts: Option<[Param; 2]>,
    /// Whether the keys' part of the layer's bias never trains.
    masked: bool,
}

impl Qkv {
    fn new(scope: &Scope, c: usize, bias: QkvBias) -> Qkv {
        let (normal, zero) = (Init::Normal(0.02), Init::Constant(0.0));
        let layer = scope.sub("qkv");
        let layer = match bias {
            QkvBias::Full | QkvBias::MaskedKey => {
                Linear::new(&layer, c, 3 * c, normal, zero.clone())
            }
            QkvBias::QueryValue | QkvBias::Absent => Linear::unbiased(&layer, c, 3 * c, normal),
        };
        let part = |name: &str| scope.param(name, &[c], zero.clone());
        let parts = (bias == QkvBias::QueryValue).then(|| [part("q_bias"), part("v_bias")]);
        Qkv { layer, parts, masked: bias == QkvBias::MaskedKey }
    }

    /// The bias `[3c]`, if there is one.
    fn bias(&self) -> Result<Option<Tensor>> {
        let whole = self.layer.bias().map(Param::get);
        let (q, v) = match (&self.parts, &whole) {
            (Some([q, v]), _) => (q.get(), v.get()),
            (None, Some(bias)) if self.masked && bias.tracked() => {
                let c = bias.len() / 3;
                (ops::rows(bias, 0, c)?, ops::rows(bias, 2 * c, c)?)
            }
            _ => return Ok(whole),
        };
        let none = Tensor::zeros_on(q.device(), q.dtype(), q.shape())?;
        Ok(Some(ops::concat(&[&q, &none, &v], 0)?))
    }

    /// The layer on the rows of `x`, normalised by `norm`.
    fn forward_normed(&self, norm: &Norm, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.layer.normed_with(norm, x, eps, self.bias()?.as_ref())
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.layer.forward_with(x, self.bias()?.as_ref())
    }
}

/// Tables of relative positions for rows and columns, `[n, d]` each.
struct Relative([Param; 2]);

impl Relative {
    /// The tables for a grid of this size, resized along the distances if they have another length.
    fn tables(&self, size: [usize; 2]) -> Result<[Tensor; 2]> {
        let [rows, columns] = &self.0;
        let fitted = |table: &Param, side: usize| {
            let (table, n) = (table.get(), (2 * side).saturating_sub(1));
            if table.dim(0) == n {
                return Ok(table);
            }
            let map = ops::reshape(&table, &[1, table.dim(0), 1, table.dim(1)])?;
            ops::reshape(&ops::resize_to(&map, n, 1)?, &[n, table.dim(1)])
        };
        Ok([fitted(rows, size[0])?, fitted(columns, size[1])?])
    }
}

/// A block.
pub(super) struct Block {
    norm1: Norm,
    qkv: Qkv,
    proj: Linear,
    ls1: Option<Param>,
    norm2: Norm,
    /// fc1 or w12.
    up: Linear,
    /// Norm between the layers of a [`Ffn::NormedSwiglu`].
    ffn_norm: Option<Norm>,
    /// fc2 or w3.
    down: Linear,
    ls2: Option<Param>,
    ffn: Ffn,
    heads: usize,
    /// Blocks of the network.
    depth: usize,
    eps: f64,
    relative: Option<Relative>,
    windowed: bool,
}

impl Block {
    /// Block `i`, with parameters from `scope`.
    pub fn new(scope: &Scope, config: &VitConfig, i: usize) -> Block {
        let (c, hidden) = (config.embed_dim, config.hidden);
        // The original uses a truncated normal; tails beyond two sigma do not matter here.
        let linear = |name: &str, input: usize, output: usize| {
            Linear::new(&scope.sub(name), input, output, Init::Normal(0.02), Init::Constant(0.0))
        };
        let gamma = |name: &str| {
            let scope = scope.sub(name);
            config.layer_scale.then(|| scope.param("gamma", &[c], Init::Constant(1.0)))
        };
        let (up, down) = match config.ffn.gated() {
            false => (linear("mlp.fc1", c, hidden), linear("mlp.fc2", hidden, c)),
            true => (linear("mlp.w12", c, 2 * hidden), linear("mlp.w3", hidden, c)),
        };
        let normed = config.ffn == Ffn::NormedSwiglu;
        let attn = scope.sub("attn");
        let relative = config.relative_rows(i).map(|rows| {
            let table = |name| attn.param(name, &[rows, c / config.heads], Init::Constant(0.0));
            Relative([table("rel_pos_h"), table("rel_pos_w")])
        });
        Block {
            norm1: Norm::new(&scope.sub("norm1"), c),
            qkv: Qkv::new(&attn, c, config.qkv_bias),
            proj: linear("attn.proj", c, c),
            ls1: gamma("ls1"),
            norm2: Norm::new(&scope.sub("norm2"), c),
            up,
            ffn_norm: normed.then(|| Norm::new(&scope.sub("mlp.ffn_ln"), hidden)),
            down,
            ls2: gamma("ls2"),
            ffn: config.ffn,
            heads: config.heads,
            depth: config.depth,
            eps: config.eps,
            relative,
            windowed: config.windowed(i),
        }
    }

    /// x + ls1 Attn(LN1 x), then + ls2 MLP(LN2 x), with the hooks of `adapter` for block `i`; x is
    /// `[b, t, c]`. Training may drop branches of images.
    pub fn forward(
        &self,
        i: usize,
        x: &Tensor,
        grid: &Grid,
        adapter: &dyn AdapterStep,
        drop_path: Option<&Dropout>,
    ) -> Result<Tensor> {
        let path = |at| drop_path.map(|drop| DropPath { drop, block: [i, self.depth], at });
        let part = range("attention");
        let a = self.attention(i, x, grid, adapter)?;
        let more = |a: &dyn Fn() -> Result<Tensor>| adapter.at_linear(i, Site::Proj, a);
        let branch = Branch { layer: &self.proj, f: Activated::Plain, scale: self.ls1.as_ref() };
        let x = branch.added(x, &a, more, path(Dropped::Attention))?;
        drop(part);
        let _part = range("mlp");
        let h = self.up.forward_normed(&self.norm2, &x, self.eps)?;
        let more = adapter.at_linear(i, Site::Up, &|| self.norm2.layer_norm(&x, self.eps))?;
        let (h, f) = self.activate(with(h, more, None)?)?;
        let more = |h: &dyn Fn() -> Result<Tensor>| adapter.at_linear(i, Site::Down, h);
        let branch = Branch { layer: &self.down, f, scale: self.ls2.as_ref() };
        let y = branch.added(&x, &h, more, path(Dropped::Mlp))?;
        with(y, adapter.beside_mlp(i, &x)?, None)
    }

    /// The activated hidden rows, but for a GELU that the next layer computes.
    fn activate(&self, h: Tensor) -> Result<(Tensor, Activated)> {
        let y = match self.ffn {
            Ffn::Mlp => return Ok((h, Activated::Gelu)),
            Ffn::QuickGelu => ops::quick_gelu(&h)?,
            Ffn::Swiglu | Ffn::NormedSwiglu => ops::swiglu(&h)?,
        };
        let y = match &self.ffn_norm {
            Some(norm) => norm.layer_norm(&y, self.eps)?,
            None => y,
        };
        Ok((y, Activated::Plain))
    }

    /// Attn(LN1 x) before its output projection, `[b, t, c]`.
    fn attention(
        &self,
        i: usize,
        x: &Tensor,
        grid: &Grid,
        adapter: &dyn AdapterStep,
    ) -> Result<Tensor> {
        let normed = || self.norm1.layer_norm(x, self.eps);
        let windows = grid.windows.as_ref().filter(|_| self.windowed);
        let qkv = match windows {
            // Padding is added behind the norm, so that padded keys and values are the biases.
            Some(windows) => self.qkv.forward(&windows.split(&normed()?)?)?,
            None => self.qkv.forward_normed(&self.norm1, x, self.eps)?,
        };
        let more = adapter.at_linear(i, Site::Qkv, &normed)?;
        let more = match (more, windows) {
            (Some(more), Some(windows)) => Some(windows.split(&more)?),
            (more, _) => more,
        };
        let qkv = with(qkv, more, None)?;
        let (b, t, c) = (qkv.dim(0), qkv.dim(1), x.dim(2));
        let qkv = ops::reshape(&qkv, &[b, t, 3, self.heads, c / self.heads])?;
        if let Some(relative) = &self.relative {
            let size = windows.map_or(grid.size, |windows| windows.size());
            let [rows, columns] = relative.tables(size)?;
            let rel = ops::relative_position(&qkv, &rows, &columns, size)?;
            let a = ops::relative_attention(&qkv, &rel, size)?;
            return windows.map_or(Ok(a.clone()), |windows| windows.merge(&a, grid.b));
        }
        let qkv = match &grid.rotary {
            Some(rotary) => rotary.apply(qkv, grid.lead)?,
            None => qkv,
        };
        Ok(ops::self_attention(&qkv)?)
    }
}

/// The last layer of a branch of a block.
struct Branch<'a> {
    layer: &'a Linear,
    /// Activation of its input.
    f: Activated,
    /// Layer scale.
    scale: Option<&'a Param>,
}

/// Stochastic depth at a branch of one of several blocks.
struct DropPath<'a> {
    drop: &'a Dropout,
    block: [usize; 2],
    at: Dropped,
}

impl Branch<'_> {
    /// `x` plus the branch whose last layer gets `z`. `more` has what an adapter adds to that layer.
    fn added(
        &self,
        x: &Tensor,
        z: &Tensor,
        more: impl Fn(&dyn Fn() -> Result<Tensor>) -> Result<Option<Tensor>>,
        path: Option<DropPath>,
    ) -> Result<Tensor> {
        let activated = || match self.f {
            Activated::Gelu => Ok(ops::gelu(z)?),
            Activated::Plain => Ok(z.clone()),
        };
        let Some(DropPath { drop, block, at }) = path else {
            let y = self.layer.residual(x, z, self.f, self.scale)?;
            return with(y, more(&activated)?, self.scale);
        };
        let branch = with(self.layer.forward(&activated()?)?, more(&activated)?, None)?;
        with(x.clone(), Some(drop.path(&branch, block, at)?), self.scale)
    }
}

/// `y + scale * more`, a scale of one if there is none; `y` itself if there is no more.
fn with(y: Tensor, more: Option<Tensor>, scale: Option<&Param>) -> Result<Tensor> {
    match more {
        Some(more) => Ok(ops::residual(&y, &more, scale.map(Param::get).as_ref())?),
        None => Ok(y),
    }
}
