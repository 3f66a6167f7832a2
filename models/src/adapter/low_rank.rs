//! Low-rank factors of linear layers, which LoRA, SoMA and RecycleLoRA share (spec after-rein §1).
//!
//! ```text
//! y = W x + b + s B (A drop(x))
//! ```
//! W `[out, in]` is frozen, A `[r, in]` and B `[out, r]` train, s is a constant. Dropout acts in
//! training alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use dressage_engine::{DType, Param, Tensor, ops, range};
use rayon::prelude::*;

use super::{Adapter, AdapterStep, Site};
use crate::backbone::VitConfig;
use crate::generator::{Dropout, Dropped, Generator};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes of a transformer's blocks, from which the shapes of their linear layers follow.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockSizes {
    /// Blocks.
    pub layers: usize,
    /// Feature width c.
    pub embed_dim: usize,
    /// Width of the MLP's hidden rows.
    pub hidden: usize,
    /// Whether the MLP is gated, with two projections in its first layer.
    pub gated: bool,
    /// Names of the biases of queries, keys and values.
    pub qkv_bias: &'static [&'static str],
}

impl BlockSizes {
    /// The sizes of `vit`.
    pub fn of(vit: &VitConfig) -> BlockSizes {
        BlockSizes {
            layers: vit.depth,
            embed_dim: vit.embed_dim,
            hidden: vit.hidden,
            gated: vit.ffn.gated(),
            qkv_bias: vit.qkv_bias.names(),
        }
    }

    /// All linear layers of a block, with a part for each projection.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let (c, hidden) = (self.embed_dim, self.hidden);
        let part = |name: &str, start, rows, rank| Part { name: name.into(), start, rows, rank };
        let whole = |rows| vec![part("", 0, rows, 0)];
        let (up, up_parts, down) = match self.gated {
            false => ("mlp.fc1", whole(hidden), "mlp.fc2"),
            true => {
                let parts = [part("w1.", 0, hidden, 0), part("w2.", hidden, hidden, 0)];
                ("mlp.w12", parts.to_vec(), "mlp.w3")
            }
        };
        let qkv = ["q.", "k.", "v."].iter().enumerate().map(|(i, name)| part(name, i * c, c, 0));
        let layer =
            |site, name, [input, rows]: [usize; 2], parts| Layer { site, name, input, rows, parts };
        let up_rows = if self.gated { 2 * hidden } else { hidden };
        vec![
            layer(Site::Qkv, "attn.qkv", [c, 3 * c], qkv.collect()),
            layer(Site::Proj, "attn.proj", [c, c], whole(c)),
            layer(Site::Up, up, [c, up_rows], up_parts),
            layer(Site::Down, down, [hidden, c], whole(c)),
        ]
    }

    /// Names of the biases of all linear layers, within a block.
    pub(super) fn biases(&self) -> Vec<String> {
        let layers = self.layers();
        let others = layers.iter().filter(|layer| layer.site != Site::Qkv);
        let others = others.map(|layer| format!("{}.bias", layer.name));
        self.qkv_bias.iter().map(|name| format!("attn.{name}")).chain(others).collect()
    }
}

/// Rows of a layer that have a pair of factors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Name of the factors within the layer, empty or with a dot at its end.
    pub name: String,
    /// First row.
    pub start: usize,
    /// Rows.
    pub rows: usize,
    /// Rank of the factors.
    pub rank: usize,
}

/// A linear layer of a block with its parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    /// Its place in the block.
    pub site: Site,
    /// Its name in the block.
    pub name: &'static str,
    /// Width of its input.
    pub input: usize,
    /// Its rows.
    pub rows: usize,
    /// Parts with factors. Rows that are in none stay as they are.
    pub parts: Vec<Part>,
}

impl Layer {
    /// Name of its weight in block `i`.
    pub fn weight(&self, i: usize) -> String {
        format!("blocks.{i}.{}.weight", self.name)
    }
}

/// Factors of one part: A `[r, in]` and B `[rows, r]`.
pub(super) struct Factors {
    pub a: Param,
    pub b: Param,
}

/// Factors of linear layers in some blocks of a transformer.
pub struct LowRank {
    /// Changed layers of a block.
    layers: Vec<Layer>,
    /// Factors by block, layer and part.
    blocks: BTreeMap<usize, Vec<Vec<Factors>>>,
    scale: f64,
    /// Share of the input that training drops.
    pub(super) dropout: f64,
    /// Constants that are stored with the factors.
    pub(super) constants: Vec<Param>,
}

/// Initial values of the factors of one part.
pub(super) type Start<'a> = &'a dyn Fn(usize, &Layer, &Part) -> [Init; 2];

impl LowRank {
    /// Gets the factors of `layers` in `blocks` from `scope` under the names of the peft library.
    ///
    /// # Errors
    /// A rank of 0.
    pub(super) fn new(
        scope: &Scope,
        layers: Vec<Layer>,
        blocks: impl Iterator<Item = usize>,
        scale: f64,
        start: Start,
    ) -> Result<LowRank> {
        if layers.iter().flat_map(|layer| &layer.parts).any(|part| part.rank == 0) {
            return Err(ModelError::Config("low-rank factors need a rank of 1 or more".into()));
        }
        let of = |i: usize, layer: &Layer| {
            let scope = scope.sub("blocks").sub(i).sub(layer.name);
            let factors = |part: &Part| {
                let ([a, b], r) = (start(i, layer, part), part.rank);
                let name = |factor: &str| format!("{}lora_{factor}.weight", part.name);
                Factors {
                    a: scope.param(&name("A"), &[r, layer.input], a),
                    b: scope.param(&name("B"), &[part.rows, r], b),
                }
            };
            layer.parts.iter().map(factors).collect()
        };
        let block = |i| (i, layers.iter().map(|layer| of(i, layer)).collect());
        let blocks = blocks.map(block).collect();
        Ok(LowRank { layers, blocks, scale, dropout: 0.0, constants: Vec::new() })
    }

    /// Factors of all parts of a layer as one pair, A `[r', in]` and B `[out, r']` where r' is the
    /// sum of all ranks, with the scale in B.
    fn joined(&self, factors: &[Factors], order: Option<&Order>) -> Result<(Tensor, Tensor)> {
        let (a, b): (Vec<Tensor>, Vec<Tensor>) =
            factors.iter().map(|f| (f.a.get(), f.b.get())).unzip();
        let (a, b) = match order {
            None => (a[0].clone(), b[0].clone()),
            Some(order) => (ops::concat(&a.iter().collect::<Vec<_>>(), 0)?, order.spread(&b)?),
        };
        Ok((a, if self.scale == 1.0 { b } else { super::scaled(&b, self.scale)? }))
    }
}

impl Adapter for LowRank {
    fn step(&self, generator: Option<&Generator>) -> Result<Arc<dyn AdapterStep>> {
        let _range = range("lora.step");
        let Some(first) = self.blocks.values().next() else {
            return Ok(Arc::new(LowRankStep { pairs: BTreeMap::new(), dropout: None }));
        };
        let order = |(layer, factors): (&Layer, &Vec<Factors>)| {
            let rows = layer.rows;
            let whole = matches!(&layer.parts[..], [part] if part.rows == rows);
            (!whole).then(|| Order::new(&layer.parts, rows, &factors[0].b.get())).transpose()
        };
        let orders = self.layers.iter().zip(first).map(order).collect::<Result<Vec<_>>>()?;
        let mut pairs = BTreeMap::new();
        for (i, block) in &self.blocks {
            for ((layer, factors), order) in self.layers.iter().zip(block).zip(&orders) {
                pairs.insert((*i, layer.site), self.joined(factors, order.as_ref())?);
            }
        }
        Ok(Arc::new(LowRankStep { pairs, dropout: Dropout::new(generator, self.dropout) }))
    }

    fn merge(&self, scope: &Scope) -> Result<()> {
        for (i, block) in &self.blocks {
            for (layer, factors) in self.layers.iter().zip(block) {
                scope.change(&layer.weight(*i), |weight| {
                    let add = |weight: Tensor, (part, f): (&Part, &Factors)| {
                        add_product(&weight, part.start, &f.b.get(), &f.a.get(), self.scale)
                    };
                    layer.parts.iter().zip(factors).try_fold(weight.detach(), add)
                })?;
                factors.iter().flat_map(|f| [&f.a, &f.b]).for_each(|param| scope.remove(param));
            }
        }
        self.constants.iter().for_each(|param| scope.remove(param));
        Ok(())
    }
}

/// `w` `[out, in]` with `factor * b a` added to its rows from `start` on; `b` is `[rows, r]`, `a`
/// `[r, in]`. Sums are in f64.
pub(super) fn add_product(
    w: &Tensor,
    start: usize,
    b: &Tensor,
    a: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    match w.dtype() {
        DType::F64 => summed::<f64>(w, start, b, a, factor),
        _ => summed::<f32>(w, start, b, a, factor),
    }
}

fn summed<T: dressage_engine::Element + dressage_kernels::Real>(
    w: &Tensor,
    start: usize,
    b: &Tensor,
    a: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    let (columns, rank) = (w.last_dim(), b.last_dim());
    let mut sum = w.deep_copy()?;
    let (a, b) = (a.data::<T>()?, b.data::<T>()?);
    let rows = sum.data_mut::<T>()?[start * columns..].par_chunks_mut(columns);
    rows.zip(b.par_chunks(rank)).for_each(|(row, b)| {
        for (i, w) in row.iter_mut().enumerate() {
            let terms = b.iter().enumerate().map(|(r, b)| b.f64() * a[r * columns + i].f64());
            *w = T::of(w.f64() + factor * terms.sum::<f64>());
        }
    });
    Ok(sum)
}

/// Places of the rows of stacked factors B in the factor of the whole layer.
///
/// A factor is cut into pieces of `unit` columns, of which every rank is a multiple. Piece `u` of
/// row `o` of a part goes to the columns of that part in row `start + o`; all else is zero.
struct Order {
    rows: usize,
    ranks: usize,
    unit: usize,
    order: Tensor,
    back: Tensor,
}

impl Order {
    /// The places for a layer of `rows` rows. The tables are where `like` is.
    fn new(parts: &[Part], rows: usize, like: &Tensor) -> Result<Order> {
        let gcd = |mut a: usize, mut b: usize| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let unit = parts.iter().fold(0, |unit, part| gcd(unit, part.rank));
        let ranks: usize = parts.iter().map(|part| part.rank).sum();
        let units = ranks / unit;
        let mut order = vec![-1; rows * units];
        let (mut back, mut column) = (Vec::new(), 0);
        for part in parts {
            for row in part.start..part.start + part.rows {
                for u in 0..part.rank / unit {
                    let to = row * units + column + u;
                    order[to] = back.len() as i32;
                    back.push(to as i32);
                }
            }
            column += part.rank / unit;
        }
        let placed = |table: &[i32]| -> Result<Tensor> {
            Ok(Tensor::from_slice(table, &[table.len()])?.constant_beside(like)?)
        };
        let (order, back) = (placed(&order)?, placed(&back)?);
        Ok(Order { rows, ranks, unit, order, back })
    }

    fn spread(&self, factors: &[Tensor]) -> Result<Tensor> {
        let pieces = |b: &Tensor| ops::reshape(b, &[b.len() / self.unit, self.unit]);
        let pieces = factors.iter().map(pieces).collect::<std::result::Result<Vec<_>, _>>()?;
        let stacked = ops::concat(&pieces.iter().collect::<Vec<_>>(), 0)?;
        let rows = ops::reorder_rows(&stacked, &self.order, &self.back)?;
        Ok(ops::reshape(&rows, &[self.rows, self.ranks])?)
    }
}

/// Low-rank additions of one step: the factors A `[r, in]` and B `[out, r]` of each changed layer.
struct LowRankStep {
    pairs: BTreeMap<(usize, Site), (Tensor, Tensor)>,
    dropout: Option<Dropout>,
}

impl AdapterStep for LowRankStep {
    fn at_linear(
        &self,
        i: usize,
        site: Site,
        input: &dyn Fn() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let Some((a, b)) = self.pairs.get(&(i, site)) else { return Ok(None) };
        let _range = range("lora");
        let mut x = input()?;
        if let Some(dropout) = &self.dropout {
            x = dropout.apply(&x, i, Dropped::Linear(site))?;
        }
        Ok(Some(ops::linear(&ops::linear(&x, a, None)?, b, None)?))
    }
}
