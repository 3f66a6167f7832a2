//! Adapters: trainable additions that change the features of a frozen backbone.

mod adaptformer;
mod decomposed;
#[cfg(test)]
mod dropout_tests;
mod lora;
mod low_rank;
#[cfg(test)]
mod low_rank_tests;
mod prompts;
mod rein;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dressage_engine::{DType, Tensor, ops};

pub use adaptformer::{AdaptFormer, AdaptFormerConfig};
pub use decomposed::{DecomposedConfig, Decomposition};
pub use lora::{LoraConfig, LoraTargets};
pub use low_rank::BlockSizes;
pub use prompts::{Vpt, VptConfig};
pub use rein::{Rein, ReinConfig};

use crate::generator::Generator;
use crate::params::Scope;
use crate::{ModelError, Result};
use low_rank::Layer;

/// Sizes of an adapter of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AdapterConfig {
    /// Rein.
    Rein(ReinConfig),
    /// LoRA.
    Lora(LoraConfig),
    /// AdaptFormer.
    AdaptFormer(AdaptFormerConfig),
    /// VPT-deep.
    Vpt(VptConfig),
    /// SoMA or RecycleLoRA.
    Decomposed(DecomposedConfig),
}

impl AdapterConfig {
    /// Tells `scope`, that of the backbone, what the adapter does to the backbone's own parameters.
    /// Call it before the backbone is built. `merges` says that [`Adapter::merge`] will be called.
    pub(crate) fn announce(&self, scope: &Scope, merges: bool) {
        let of = |layer: Layer, blocks: usize| (0..blocks).map(move |i| layer.weight(i)).collect();
        let held: Vec<String> = match self {
            AdapterConfig::Lora(config) if merges => of(config.layer(), config.layers),
            AdapterConfig::Decomposed(config) => config.weights(),
            _ => Vec::new(),
        };
        held.iter().for_each(|name| scope.hold(name));
        if let AdapterConfig::Decomposed(config) = self {
            let tuned = config.tuned();
            scope.tune(move |name, _| tuned.iter().any(|tuned| tuned == name));
        }
    }

    /// Builds the adapter. `scope` is that of the backbone.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn build(&self, scope: &Scope) -> Result<Box<dyn Adapter>> {
        Ok(match self {
            AdapterConfig::Rein(config) => {
                Box::new(Rein::new(&scope.sub("reins"), config.clone())?)
            }
            AdapterConfig::Lora(config) => Box::new(config.build(scope)?),
            AdapterConfig::Decomposed(config) => Box::new(config.build(scope)?),
            AdapterConfig::AdaptFormer(config) => Box::new(AdaptFormer::new(scope, config)),
            AdapterConfig::Vpt(config) => Box::new(Vpt::new(scope, config)?),
        })
    }

    /// Rein, if it is that.
    pub fn rein(&self) -> Option<&ReinConfig> {
        match self {
            AdapterConfig::Rein(config) => Some(config),
            _ => None,
        }
    }

    /// [`AdapterConfig::rein`], to be changed.
    pub fn rein_mut(&mut self) -> Option<&mut ReinConfig> {
        match self {
            AdapterConfig::Rein(config) => Some(config),
            _ => None,
        }
    }

    /// Whether it adds tokens to those of a block, which windows have no place for.
    pub fn adds_tokens(&self) -> bool {
        matches!(self, AdapterConfig::Vpt(_))
    }
}

/// Whether a parameter with this name belongs to an adapter, in a file of any origin.
pub fn is_adapter(name: &str) -> bool {
    let parts = ["backbone.reins.", "backbone.prompts", ".lora_A.", ".lora_B.", ".adaptmlp."];
    parts.iter().any(|part| name.contains(part))
}

/// Whether a tensor is a constant that an adapter has computed from the backbone.
pub fn is_constant(name: &str) -> bool {
    name.ends_with(decomposed::START)
}

/// An adapter of a backbone.
pub trait Adapter: Send + Sync {
    /// Everything that does not depend on the image, computed once per step. A training step has a
    /// `generator`, from which dropout draws.
    ///
    /// # Errors
    /// Errors of the engine.
    fn step(&self, generator: Option<&Generator>) -> Result<Arc<dyn AdapterStep>>;

    /// Adds the adapter to the weights of the backbone in `scope` and removes its parameters.
    ///
    /// # Errors
    /// An adapter that is no change of weights.
    fn merge(&self, _scope: &Scope) -> Result<()> {
        let text = "only low-rank factors (lora, soma, recycle-lora) can be merged into weights";
        Err(ModelError::Config(text.into()))
    }
}

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Packed queries, keys and values of the attention.
    Qkv,
    /// Output projection of the attention.
    Proj,
    /// First layer of the MLP.
    Up,
    /// Second layer of the MLP.
    Down,
}

/// An adapter in one step: hooks in block `i` of a backbone, each of which changes nothing unless
/// it is written.
///
/// Tokens are `[b, lead + n, c]`. The first `lead` rows of an image are the class token and
/// registers, the next `n` its patches.
pub trait AdapterStep: Send + Sync {
    /// Tokens that enter the block. Rows behind the patches may be added or replaced.
    ///
    /// # Errors
    /// Errors of the engine.
    fn enter(&self, _i: usize, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }

    /// Addition to the result of the linear layer at `site`; `input` computes what enters it.
    ///
    /// # Errors
    /// Errors of the engine.
    fn at_linear(
        &self,
        _i: usize,
        _site: Site,
        _input: &dyn Fn() -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Addition to the block's result from `x`, the tokens before the norm of the MLP.
    ///
    /// # Errors
    /// Errors of the engine.
    fn beside_mlp(&self, _i: usize, _x: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Tokens that leave the block.
    ///
    /// # Errors
    /// Errors of the engine.
    fn leave(&self, _i: usize, x: Tensor, _lead: usize) -> Result<Tensor> {
        Ok(x)
    }

    /// Queries of the head `[m, c']` that the adapter makes.
    fn queries(&self) -> Option<&Tensor> {
        None
    }
}

/// `factor * x`.
pub(crate) fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    let gamma = match x.dtype() {
        DType::F64 => Tensor::full(&[x.last_dim()], factor),
        _ => Tensor::full(&[x.last_dim()], factor as f32).constant_beside(x)?,
    };
    let none = Tensor::zeros_on(x.device(), x.dtype(), x.shape())?;
    Ok(ops::residual(&none, x, Some(&gamma))?)
}

/// No adapter: a frozen or fully trained backbone.
pub(crate) struct NoAdapter;

impl AdapterStep for NoAdapter {}
