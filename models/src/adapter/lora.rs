//! LoRA: low-rank additions to linear layers of a frozen backbone (spec peft-and-dgss §3).

use serde::{Deserialize, Serialize};

use super::Site;
use super::low_rank::{Layer, LowRank, Part};
use crate::Result;
use crate::params::{Init, Scope};

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
    /// Share of the input that training drops before the factors, in [0, 1).
    pub dropout: f64,
    /// Rows that are changed.
    pub targets: LoraTargets,
}

impl LoraConfig {
    /// The paper's settings: rank 8 on queries and values, scale 1, a dropout of 0.1 %.
    pub fn published(layers: usize, embed_dim: usize) -> LoraConfig {
        let (rank, alpha, dropout, targets) = (8, 8.0, 0.001, LoraTargets::Qv);
        LoraConfig { layers, embed_dim, rank, alpha, dropout, targets }
    }

    /// The changed layer of a block.
    pub(super) fn layer(&self) -> Layer {
        let (c, rank) = (self.embed_dim, self.rank);
        let parts: &[(&str, usize, usize)] = match self.targets {
            LoraTargets::Qv => &[("q.", 0, c), ("v.", 2 * c, c)],
            LoraTargets::Qkv => &[("q.", 0, c), ("k.", c, c), ("v.", 2 * c, c)],
            LoraTargets::Fused => &[("", 0, 3 * c)],
        };
        let part = |&(name, start, rows): &(&str, usize, usize)| {
            let name = name.to_string();
            Part { name, start, rows, rank }
        };
        let parts = parts.iter().map(part).collect();
        Layer { site: Site::Qkv, name: "attn.qkv", input: c, rows: 3 * c, parts }
    }

    /// Gets every parameter from `scope`. A is uniform, B zero.
    ///
    /// # Errors
    /// A rank of 0.
    pub(super) fn build(&self, scope: &Scope) -> Result<LowRank> {
        let (layers, scale) = (vec![self.layer()], self.alpha / self.rank as f64);
        let mut factors = LowRank::new(scope, layers, 0..self.layers, scale, &|_, layer, _| {
            [Init::default_linear(layer.input), Init::Constant(0.0)]
        })?;
        factors.dropout = self.dropout;
        Ok(factors)
    }
}
