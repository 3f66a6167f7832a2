//! VPT-deep: learned tokens that each block sees and that are thrown away after it (spec
//! peft-and-dgss §3).

use std::sync::Arc;

use dressage_engine::{Param, Tensor, ops};

use super::{Adapter, AdapterStep};
use crate::generator::Generator;
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes of VPT-deep.
#[derive(Debug, Clone, PartialEq)]
pub struct VptConfig {
    /// Blocks.
    pub layers: usize,
    /// Feature width c.
    pub embed_dim: usize,
    /// Prompts per block.
    pub prompts: usize,
    /// Patch side, which enters the range of initialisation.
    pub patch: usize,
}

impl VptConfig {
    /// The paper's settings: 150 prompts per block.
    pub fn published(layers: usize, embed_dim: usize) -> VptConfig {
        VptConfig { layers, embed_dim, prompts: 150, patch: 16 }
    }
}

/// The adapter.
pub struct Vpt {
    /// `[layers, prompts, c]`.
    prompts: Param,
}

impl Vpt {
    /// Gets `prompts` from `scope`.
    ///
    /// # Errors
    /// No prompts.
    pub fn new(scope: &Scope, config: &VptConfig) -> Result<Vpt> {
        let VptConfig { layers, embed_dim, prompts, patch } = *config;
        if prompts == 0 {
            return Err(ModelError::Config("vpt needs 1 prompt or more".into()));
        }
        let area = 3.0 * (patch * patch) as f64;
        let init = Init::Uniform((6.0 / (area + embed_dim as f64)).sqrt());
        Ok(Vpt { prompts: scope.param("prompts", &[layers, prompts, embed_dim], init) })
    }
}

impl Adapter for Vpt {
    fn step(&self, _: Option<&Generator>) -> Result<Arc<dyn AdapterStep>> {
        Ok(Arc::new(VptStep { prompts: self.prompts.get() }))
    }
}

struct VptStep {
    prompts: Tensor,
}

impl AdapterStep for VptStep {
    // Behind the patches they meet neither rotation nor the tokens that are skipped; attention does
    // not depend on their place.
    fn enter(&self, i: usize, x: Tensor) -> Result<Tensor> {
        let [_, m, c] = [0, 1, 2].map(|axis| self.prompts.dim(axis));
        let prompts = ops::reshape(&ops::rows(&self.prompts, i, 1)?, &[m, c])?;
        Ok(ops::concat(&[&x, &ops::broadcast(&prompts, x.dim(0))?], 1)?)
    }

    fn leave(&self, _i: usize, x: Tensor, _lead: usize) -> Result<Tensor> {
        Ok(ops::narrow(&x, 1, 0, x.dim(1) - self.prompts.dim(1))?)
    }
}
