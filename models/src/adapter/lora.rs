//! LoRA: low-rank additions to linear layers of a frozen backbone (spec peft-and-dgss §3).

use std::collections::BTreeMap;
use std::sync::Arc;

use dressage_engine::{Param, Tensor, ops, range};
use serde::{Deserialize, Serialize};

use super::{Adapter, AdapterStep, Site};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Rows of the packed layer of queries, keys and values that LoRA changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraTargets {
    /// Queries and values, one pair of factors each.
    #[default]
    Qv,
    /// Queries, keys and values, one pair of factors each.
    Qkv,
    /// All rows with one pair of factors.
    Fused,
}

/// Sizes of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Blocks.
    pub layers: usize,
    /// Feature width c.
    pub embed_dim: usize,
    /// Rank r.
    pub rank: usize,
    /// Factor α: the addition is scaled by α/r.
    pub alpha: f64,
    /// Rows that are changed.
    pub targets: LoraTargets,
}

impl LoraConfig {
    /// The paper's settings: rank 8 on queries and values, scale 1.
    pub fn published(layers: usize, embed_dim: usize) -> LoraConfig {
        LoraConfig { layers, embed_dim, rank: 8, alpha: 8.0, targets: LoraTargets::Qv }
    }
}

/// Part of the rows of a layer: the name of its factors, its first row and number of rows.
type Part = (&'static str, usize, usize);

/// Factors of one part: A `[r, in]` and B `[rows, r]`.
struct Factors {
    a: Param,
    b: Param,
}

/// The adapter.
pub struct Lora {
    config: LoraConfig,
    parts: Vec<Part>,
    /// Factors of each part in each block.
    blocks: Vec<Vec<Factors>>,
}

impl Lora {
    /// Gets every parameter from `scope` under the names of the peft library. A is uniform, B zero.
    ///
    /// # Errors
    /// A rank of 0.
    pub fn new(scope: &Scope, config: LoraConfig) -> Result<Lora> {
        let (c, r) = (config.embed_dim, config.rank);
        if r == 0 {
            return Err(ModelError::Config("lora needs a rank of 1 or more".into()));
        }
        let parts: Vec<Part> = match config.targets {
            LoraTargets::Qv => vec![("q.", 0, c), ("v.", 2 * c, c)],
            LoraTargets::Qkv => vec![("q.", 0, c), ("k.", c, c), ("v.", 2 * c, c)],
            LoraTargets::Fused => vec![("", 0, 3 * c)],
        };
        let factors = |i: usize| {
            let qkv = scope.sub("blocks").sub(i).sub("attn.qkv");
            let of = |&(name, _, rows): &Part| Factors {
                a: qkv.param(&format!("{name}lora_A.weight"), &[r, c], Init::default_linear(c)),
                b: qkv.param(&format!("{name}lora_B.weight"), &[rows, r], Init::Constant(0.0)),
            };
            parts.iter().map(of).collect()
        };
        let blocks = (0..config.layers).map(factors).collect();
        Ok(Lora { config, parts, blocks })
    }

    /// Factors of all parts of a block as one pair, A `[p r, in]` and B `[3c, p r]`, with the scale
    /// in B.
    fn joined(&self, factors: &[Factors], order: Option<&Order>) -> Result<(Tensor, Tensor)> {
        let (a, b): (Vec<Tensor>, Vec<Tensor>) =
            factors.iter().map(|f| (f.a.get(), f.b.get())).unzip();
        let stacked = |all: &[Tensor]| ops::concat(&all.iter().collect::<Vec<_>>(), 0);
        let (a, b) = match order {
            None => (a[0].clone(), b[0].clone()),
            Some(order) => (stacked(&a)?, order.spread(&stacked(&b)?)?),
        };
        let scale = self.config.alpha / self.config.rank as f64;
        Ok((a, if scale == 1.0 { b } else { super::scaled(&b, scale)? }))
    }
}

impl Adapter for Lora {
    fn step(&self) -> Result<Arc<dyn AdapterStep>> {
        let _range = range("lora.step");
        let order = match (&self.parts[..], self.blocks.first()) {
            ([_], _) | (_, None) => None,
            (parts, Some(factors)) => {
                let rows = 3 * self.config.embed_dim;
                Some(Order::new(parts, rows, self.config.rank, &factors[0].b.get())?)
            }
        };
        let joined = |factors: &Vec<Factors>| self.joined(factors, order.as_ref());
        let blocks = self.blocks.iter().map(joined).collect::<Result<Vec<_>>>()?;
        let pairs = blocks.into_iter().enumerate().map(|(i, pair)| ((i, Site::Qkv), pair));
        Ok(Arc::new(LowRankStep { pairs: pairs.collect() }))
    }
}

/// Places of the rows of stacked factors B in the factor of the whole layer.
///
/// Row `o` of part `p` becomes the columns `p r .. (p + 1) r` of row `start + o`; all else is zero.
struct Order {
    rows: usize,
    parts: usize,
    rank: usize,
    order: Tensor,
    back: Tensor,
}

impl Order {
    /// The places for a layer of `rows` rows. The tables are where `like` is.
    fn new(parts: &[Part], rows: usize, rank: usize, like: &Tensor) -> Result<Order> {
        let count = parts.len();
        let mut order = vec![-1; rows * count];
        let mut back = Vec::new();
        for (p, &(_, start, len)) in parts.iter().enumerate() {
            for row in start..start + len {
                let to = row * count + p;
                order[to] = back.len() as i32;
                back.push(to as i32);
            }
        }
        let placed = |table: &[i32]| -> Result<Tensor> {
            Ok(Tensor::from_slice(table, &[table.len()])?.constant_beside(like)?)
        };
        let (order, back) = (placed(&order)?, placed(&back)?);
        Ok(Order { rows, parts: count, rank, order, back })
    }

    fn spread(&self, stacked: &Tensor) -> Result<Tensor> {
        let rows = ops::reorder_rows(stacked, &self.order, &self.back)?;
        Ok(ops::reshape(&rows, &[self.rows, self.parts * self.rank])?)
    }
}

/// Low-rank additions of one step: the factors A `[r, in]` and B `[out, r]` of each changed layer.
struct LowRankStep {
    pairs: BTreeMap<(usize, Site), (Tensor, Tensor)>,
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
        Ok(Some(ops::linear(&ops::linear(&input()?, a, None)?, b, None)?))
    }
}
