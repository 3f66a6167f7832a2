//! AdaptFormer: a bottleneck beside the MLP of each block (spec peft-and-dgss §3).

use std::sync::Arc;

use dressage_engine::{Tensor, ops, range};

use super::{Adapter, AdapterStep};
use crate::Result;
use crate::generator::{Dropout, Dropped, Generator};
use crate::layers::Linear;
use crate::params::{Init, Scope};

/// Sizes of AdaptFormer.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptFormerConfig {
    /// Blocks.
    pub layers: usize,
    /// Feature width c.
    pub embed_dim: usize,
    /// Width of the bottleneck.
    pub bottleneck: usize,
    /// Factor of the addition.
    pub scale: f64,
    /// Share of the hidden rows that training drops, in [0, 1).
    pub dropout: f64,
}

impl AdaptFormerConfig {
    /// The paper's settings: 64 channels, a scale of 0.1. The dropout is that of its authors.
    pub fn published(layers: usize, embed_dim: usize) -> AdaptFormerConfig {
        AdaptFormerConfig { layers, embed_dim, bottleneck: 64, scale: 0.1, dropout: 0.1 }
    }
}

/// The adapter.
pub struct AdaptFormer {
    scale: f64,
    dropout: f64,
    /// First and second layer of each block.
    blocks: Vec<[Linear; 2]>,
}

impl AdaptFormer {
    /// Gets every parameter from `scope` under the names of its authors. It starts as the identity:
    /// the second layer and all biases are zero.
    pub fn new(scope: &Scope, config: &AdaptFormerConfig) -> AdaptFormer {
        let (c, width, zero) = (config.embed_dim, config.bottleneck, Init::Constant(0.0));
        let layers = |i: usize| {
            let scope = scope.sub("blocks").sub(i).sub("adaptmlp");
            let down = Init::default_linear(c);
            [
                Linear::new(&scope.sub("down_proj"), c, width, down, zero.clone()),
                Linear::new(&scope.sub("up_proj"), width, c, zero.clone(), zero.clone()),
            ]
        };
        let blocks = (0..config.layers).map(layers).collect();
        AdaptFormer { scale: config.scale, dropout: config.dropout, blocks }
    }
}

impl Adapter for AdaptFormer {
    fn step(&self, generator: Option<&Generator>) -> Result<Arc<dyn AdapterStep>> {
        let block = |[down, up]: &[Linear; 2]| {
            // The factor goes to the layer, whose tensors are smaller than its results.
            let (weight, bias) = up.scaled(self.scale)?;
            Ok(Bottleneck { down: down.clone(), weight, bias })
        };
        let blocks = self.blocks.iter().map(block).collect::<Result<_>>()?;
        Ok(Arc::new(AdaptFormerStep { blocks, dropout: Dropout::new(generator, self.dropout) }))
    }
}

/// A bottleneck in one step, with the scaled second layer.
struct Bottleneck {
    down: Linear,
    weight: Tensor,
    bias: Option<Tensor>,
}

struct AdaptFormerStep {
    blocks: Vec<Bottleneck>,
    dropout: Option<Dropout>,
}

impl AdapterStep for AdaptFormerStep {
    fn beside_mlp(&self, i: usize, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(Bottleneck { down, weight, bias }) = self.blocks.get(i) else { return Ok(None) };
        let _range = range("adaptformer");
        let mut hidden = down.forward_relu(x)?;
        if let Some(dropout) = &self.dropout {
            hidden = dropout.apply(&hidden, i, Dropped::Bottleneck)?;
        }
        Ok(Some(ops::linear(&hidden, weight, bias.as_ref())?))
    }
}
