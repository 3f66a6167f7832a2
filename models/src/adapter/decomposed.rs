//! SoMA and RecycleLoRA: low-rank factors that start as parts of the frozen weights themselves
//! (spec after-rein §1).
//!
//! A weight W `[out, in]` is split into W - B₀ A₀, which stays frozen, and factors that start as A₀
//! and B₀ and train, so that the network starts as the pre-trained one.
//!
//! * SoMA: W = U Σ Vᵀ. From the r smallest singular values, A₀ = √Σ Vᵀ and B₀ = U √Σ. The biases of
//!   the changed layers train too.
//! * RecycleLoRA: W P = Q R with column pivoting. A main branch has the last columns of Q and the
//!   rows of R Pᵀ that belong to them, a second one the first.
//!
//! A₀ and B₀ are stored in checkpoints as buffers `lora_A.start` and `lora_B.start`: another
//! processor may compute other last bits.

use std::collections::BTreeMap;

use dressage_engine::{DType, Param, Tensor};
use dressage_kernels::dry_run;
use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::low_rank::{BlockSizes, Layer, LowRank, Part, add_product};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Parts of a weight that start the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decomposition {
    /// The smallest singular values (SoMA).
    Singular {
        /// Rank of the factors.
        rank: usize,
    },
    /// The last and the first columns of a QR decomposition with column pivoting (RecycleLoRA).
    PivotedQr {
        /// Rank of the main branch, from the last columns.
        rank: usize,
        /// Rank of the second branch, from the first columns.
        second_rank: usize,
    },
}

/// Sizes of SoMA or RecycleLoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct DecomposedConfig {
    /// The backbone's blocks.
    pub blocks: BlockSizes,
    /// First block with factors; the blocks before it stay frozen.
    pub first: usize,
    /// Source of the factors.
    pub decomposition: Decomposition,
}

impl DecomposedConfig {
    /// SoMA as published: rank 16 in the last two thirds of the blocks.
    pub fn soma(blocks: BlockSizes) -> DecomposedConfig {
        let first = blocks.layers / 3;
        DecomposedConfig { blocks, first, decomposition: Decomposition::Singular { rank: 16 } }
    }

    /// RecycleLoRA with its published ranks, in the blocks of SoMA.
    pub fn recycle(blocks: BlockSizes) -> DecomposedConfig {
        let decomposition = Decomposition::PivotedQr { rank: 32, second_rank: 4 };
        DecomposedConfig { decomposition, ..DecomposedConfig::soma(blocks) }
    }

    /// Name of each branch within its projection, and its rank.
    fn branches(&self) -> Vec<(&'static str, usize)> {
        match self.decomposition {
            Decomposition::Singular { rank } => vec![("", rank)],
            Decomposition::PivotedQr { rank, second_rank } => {
                vec![("main.", rank), ("second.", second_rank)]
            }
        }
    }

    /// The parts of a projection's factors, one for each branch.
    fn branched(&self, part: &Part) -> Vec<Part> {
        let branch = |(name, rank): (&str, usize)| Part {
            name: format!("{}{name}", part.name),
            rank,
            ..part.clone()
        };
        self.branches().into_iter().map(branch).collect()
    }

    /// Names of the backbone's own parameters that train.
    pub(super) fn tuned(&self) -> Vec<String> {
        if matches!(self.decomposition, Decomposition::PivotedQr { .. }) {
            return Vec::new();
        }
        let biases = self.blocks.biases();
        let of = |i| biases.iter().map(move |name| format!("blocks.{i}.{name}"));
        (self.first..self.blocks.layers).flat_map(of).collect()
    }

    /// Names of the weights that are split.
    pub(super) fn weights(&self) -> Vec<String> {
        let layers = self.blocks.layers();
        let of = |i| layers.iter().map(move |layer| layer.weight(i)).collect::<Vec<_>>();
        (self.first..self.blocks.layers).flat_map(of).collect()
    }

    /// Refuses ranks that a weight has no room for.
    fn check(&self, layers: &[Layer]) -> Result<()> {
        let rank: usize = self.branches().iter().map(|(_, rank)| rank).sum();
        let least = |layer: &Layer| {
            layer.parts.iter().map(|part| part.rows.min(layer.input)).min().unwrap_or(0)
        };
        let room = layers.iter().map(least).min().unwrap_or(0);
        if rank > room {
            return Err(ModelError::Config(format!(
                "factors of rank {rank} do not fit into weights whose smaller side is {room}"
            )));
        }
        if self.first >= self.blocks.layers {
            return Err(ModelError::Config(format!(
                "the first block with factors is {}, but the backbone has {}",
                self.first, self.blocks.layers
            )));
        }
        Ok(())
    }

    /// Splits the weights of the backbone in `scope` and makes the factors.
    ///
    /// # Errors
    /// A rank of 0 or above the sides of a weight; a decomposition that does not converge.
    pub(super) fn build(&self, scope: &Scope) -> Result<LowRank> {
        let layers = self.blocks.layers();
        self.check(&layers)?;
        let in_blocks = self.first..self.blocks.layers;
        let of_block = |i| {
            layers
                .iter()
                .flat_map(move |layer| layer.parts.iter().map(move |part| (i, layer, part)))
        };
        let projections: Vec<Projection> = in_blocks.clone().flat_map(of_block).collect();
        let split = self.split(scope, &projections)?;
        let mut starts = BTreeMap::new();
        for ((i, layer, part), values) in projections.into_iter().zip(split) {
            let own = scope.sub("blocks").sub(i).sub(layer.name);
            for (branch, [a, b]) in self.branched(part).into_iter().zip(values) {
                let [a_name, b_name] = names(&branch);
                let a = own.buffer(&a_name, &[branch.rank, layer.input], a);
                let b = own.buffer(&b_name, &[branch.rows, branch.rank], b);
                scope.change(&layer.weight(i), |weight| {
                    add_product(weight, branch.start, &b.get(), &a.get(), -1.0)
                })?;
                starts.insert((i, layer.site, branch.name), [a, b]);
            }
        }
        let branched = |layer: &Layer| {
            let parts = layer.parts.iter().flat_map(|part| self.branched(part)).collect();
            Layer { parts, ..layer.clone() }
        };
        let layers = layers.iter().map(branched).collect();
        let start = |i: usize, layer: &Layer, part: &Part| {
            starts[&(i, layer.site, part.name.clone())].each_ref().map(start_at)
        };
        let mut factors = LowRank::new(scope, layers, in_blocks, 1.0, &start)?;
        factors.constants = starts.into_values().flatten().collect();
        Ok(factors)
    }

    /// A₀ and B₀ of each branch of each projection. Values that the weights in `scope` already have
    /// are not computed.
    fn split(&self, scope: &Scope, projections: &[Projection]) -> Result<Vec<Vec<[Init; 2]>>> {
        let none = || vec![[Init::Constant(0.0), Init::Constant(0.0)]; self.branches().len()];
        let weight = |&(i, layer, part): &Projection| {
            let own = scope.sub("blocks").sub(i).sub(layer.name);
            let given = |branch: Part| names(&branch).iter().all(|name| own.given(name));
            if dry_run::active() || self.branched(part).into_iter().all(given) {
                return Ok(None);
            }
            Ok(Some((scope.requested(&layer.weight(i))?.master(), part.start, part.rows)))
        };
        let weights = projections.iter().map(weight).collect::<Result<Vec<_>>>()?;
        let of = |weight: Option<(Tensor, usize, usize)>| match weight {
            None => Ok(none()),
            Some((weight, start, rows)) => self.factors(&matrix(&weight, start, rows)?),
        };
        weights.into_par_iter().map(of).collect()
    }

    /// A₀ and B₀ of each branch for a weight.
    pub(super) fn factors(&self, weight: &Mat<f64>) -> Result<Vec<[Init; 2]>> {
        match self.decomposition {
            Decomposition::Singular { rank } => {
                let svd = weight.thin_svd().map_err(|_| {
                    ModelError::Config("the singular values of a weight do not converge".into())
                })?;
                let (u, s, v) = (svd.U(), svd.S().column_vector(), svd.V());
                let last = s.nrows() - rank;
                let a = |k, column| s[last + k].sqrt() * v[(column, last + k)];
                let b = |row, k| u[(row, last + k)] * s[last + k].sqrt();
                Ok(vec![pair(weight, rank, a, b)])
            }
            Decomposition::PivotedQr { rank, second_rank } => {
                let qr = weight.col_piv_qr();
                let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
                let (_, position) = qr.P().arrays();
                let of = |first: usize, rank: usize| {
                    let a = |k, column: usize| r[(first + k, position[column])];
                    pair(weight, rank, a, |row, k| q[(row, first + k)])
                };
                Ok(vec![of(q.ncols() - rank, rank), of(0, second_rank)])
            }
        }
    }
}

/// A projection: its block, its layer, its rows there.
type Projection<'a> = (usize, &'a Layer, &'a Part);

/// End of the names of A₀ and B₀.
pub(super) const START: &str = ".start";

/// Names of A₀ and B₀ within a layer.
fn names(part: &Part) -> [String; 2] {
    ["A", "B"].map(|factor| format!("{}lora_{factor}{START}", part.name))
}

/// Rows of a weight in f64.
pub(super) fn matrix(weight: &Tensor, start: usize, rows: usize) -> Result<Mat<f64>> {
    let columns = weight.last_dim();
    let wide: Vec<f64> = match weight.dtype() {
        DType::F64 => weight.data::<f64>()?.to_vec(),
        _ => weight.data::<f32>()?.iter().map(|&x| f64::from(x)).collect(),
    };
    let rows = &wide[start * columns..(start + rows) * columns];
    Ok(MatRef::from_row_major_slice(rows, rows.len() / columns, columns).to_owned())
}

/// A `[rank, in]` and B `[out, rank]` by their elements.
fn pair(
    weight: &Mat<f64>,
    rank: usize,
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> [Init; 2] {
    let (rows, columns) = weight.shape();
    let a = (0..rank * columns).map(|at| a(at / columns, at % columns)).collect();
    let b = (0..rows * rank).map(|at| b(at / rank, at % rank)).collect();
    [Init::Values(a), Init::Values(b)]
}

/// The values of a buffer as a start.
fn start_at(buffer: &Param) -> Init {
    let value = buffer.get();
    match (value.data::<f32>(), value.data::<f64>()) {
        _ if dry_run::active() => Init::Constant(0.0),
        (Ok(x), _) => Init::Values(x.iter().map(|&x| f64::from(x)).collect()),
        (_, Ok(x)) => Init::Values(x.to_vec()),
        _ => Init::Constant(0.0),
    }
}
