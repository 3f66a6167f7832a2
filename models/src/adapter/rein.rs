//! Rein: learnable tokens that refine a frozen backbone's features after every block. Sources: spec
//! peft-and-dgss §1, backbones §5; equations are numbered as in the paper.

use std::sync::Arc;

use dressage_engine::{DType, Param, Tensor, ops, range};

use super::{Adapter, AdapterStep};
use crate::backbone::Stage;
use crate::generator::Generator;
use crate::layers::Linear;
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes and switches of Rein.
#[derive(Debug, Clone, PartialEq)]
pub struct ReinConfig {
    /// Layers N, one per refined block, and feature width c of each stage of the backbone. Each
    /// stage has tokens and MLPs of its own; the linked queries of all stages are added.
    pub stages: Vec<Stage>,
    /// Tokens m.
    pub tokens: usize,
    /// Rank r of the tokens (eq. 12); 0 for free tokens.
    pub rank: usize,
    /// Width of the linked queries c'.
    pub query_dim: usize,
    /// Patch side, which enters the range of initialisation.
    pub patch: usize,
    /// Whether tokens become the head's queries (eq. 8 to 10).
    pub link: bool,
    /// Softmax over tokens with scale 1/√c (eq. 5); if false, neither is applied.
    pub softmax: bool,
    /// The paper's form: W_f and b_f start at zero and the scale is the constant 1 instead of a
    /// parameter.
    pub zero_mlp_delta_f: bool,
    /// One set of W_T, W_f, W_Q for all layers (eq. 11). The first two stages of the ablation have
    /// one per layer.
    pub share: bool,
    /// Initial value of the learnable scale.
    pub scale: f64,
}

impl ReinConfig {
    /// The published settings: 100 tokens of rank 16, queries of 256, linked, shared, scale 0.001.
    pub fn published(layers: usize, embed_dim: usize) -> ReinConfig {
        ReinConfig::of_stages(vec![Stage { blocks: layers, width: embed_dim }])
    }

    /// [`ReinConfig::published`] for a backbone of several stages.
    pub fn of_stages(stages: Vec<Stage>) -> ReinConfig {
        ReinConfig {
            stages,
            tokens: 100,
            rank: 16,
            query_dim: 256,
            patch: 16,
            link: true,
            softmax: true,
            zero_mlp_delta_f: false,
            share: true,
            scale: 1e-3,
        }
    }
}

enum Tokens {
    Full(Param),
    LowRank(Param, Param),
}

/// A linear layer, one for all layers or one per layer (weight `[l, out, in]`).
struct Projection {
    weight: Param,
    bias: Param,
    shared: bool,
}

impl Projection {
    fn new(scope: &Scope, stage: Stage, share: bool, output: usize, init: Init) -> Projection {
        let Stage { blocks: n, width: c } = stage;
        if share {
            let weight = scope.param("weight", &[output, c], init.clone());
            return Projection { weight, bias: scope.param("bias", &[output], init), shared: true };
        }
        Projection {
            weight: scope.param("weight", &[n, output, c], init.clone()),
            bias: scope.param("bias", &[n, output], init),
            shared: false,
        }
    }

    /// Weight `[out, c]` and bias `[out]` of layer `i`.
    fn of_layer(&self, i: usize) -> Result<(Tensor, Tensor)> {
        let (w, b) = (self.weight.get(), self.bias.get());
        if self.shared {
            return Ok((w, b));
        }
        let weight = ops::reshape(&ops::rows(&w, i, 1)?, &w.shape()[1..])?;
        Ok((weight, ops::reshape(&ops::rows(&b, i, 1)?, &b.shape()[1..])?))
    }

    /// Maps x `[l, m, c]` to `[l, m, out]`.
    fn all_layers(&self, x: &Tensor) -> Result<Tensor> {
        if self.shared {
            return Ok(ops::linear(x, &self.weight.get(), Some(&self.bias.get()))?);
        }
        let parts = (0..x.dim(0))
            .map(|i| {
                let (w, b) = self.of_layer(i)?;
                Ok(ops::linear(&ops::rows(x, i, 1)?, &w, Some(&b))?)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(ops::concat(&parts.iter().collect::<Vec<_>>(), 0)?)
    }
}

/// The adapter.
pub struct Rein {
    config: ReinConfig,
    stages: Vec<Module>,
}

/// Tokens and MLPs of one stage.
struct Module {
    stage: Stage,
    tokens: Tokens,
    scale: Option<Param>,
    token2feat: Projection,
    delta_f: Projection,
    link: Option<(Projection, Linear)>,
}

impl Rein {
    /// Gets every parameter from `scope` (the reference's `backbone.reins.`, with the number of the
    /// stage where there are several), initialised as in spec backbones §5.1.
    ///
    /// # Errors
    /// Fewer than two tokens: the first never reaches the features.
    pub fn new(scope: &Scope, config: ReinConfig) -> Result<Rein> {
        if config.tokens < 2 {
            let text = format!("rein needs at least 2 tokens, not {}", config.tokens);
            return Err(ModelError::Config(text));
        }
        let stages = match config.stages[..] {
            [stage] => vec![Module::new(scope, stage, &config)],
            ref stages => (stages.iter().enumerate())
                .map(|(i, stage)| Module::new(&scope.sub(i), *stage, &config))
                .collect(),
        };
        Ok(Rein { config, stages })
    }

    /// Sizes and switches.
    pub fn config(&self) -> &ReinConfig {
        &self.config
    }
}

impl Adapter for Rein {
    /// Computes tokens, their values and the linked queries.
    fn step(&self, _: Option<&Generator>) -> Result<Arc<dyn AdapterStep>> {
        let _range = range("rein.tokens");
        let softmax = self.config.softmax;
        let stages = self.stages.iter().map(|stage| stage.step(softmax));
        let stages = stages.collect::<Result<Vec<_>>>()?;
        let mut queries: Option<Tensor> = None;
        for own in stages.iter().filter_map(|stage| stage.queries.as_ref()) {
            queries = Some(match queries {
                Some(sum) => ops::add(&sum, own)?,
                None => own.clone(),
            });
        }
        Ok(Arc::new(ReinStep { stages, queries }))
    }
}

impl Module {
    fn new(scope: &Scope, stage: Stage, config: &ReinConfig) -> Module {
        let (m, r, Stage { blocks: n, width: c }) = (config.tokens, config.rank, stage);
        let area = 3.0 * (config.patch * config.patch) as f64;
        let tokens = if r == 0 {
            let init = Init::Uniform((6.0 / (area + c as f64)).sqrt());
            Tokens::Full(scope.param("learnable_tokens", &[n, m, c], init))
        } else {
            let init = Init::Uniform((6.0 / (area + ((c * r) as f64).sqrt())).sqrt());
            Tokens::LowRank(
                scope.param("learnable_tokens_a", &[n, m, r], init.clone()),
                scope.param("learnable_tokens_b", &[n, r, c], init),
            )
        };
        let default = Init::default_linear(c);
        let delta = if config.zero_mlp_delta_f { Init::Constant(0.0) } else { default.clone() };
        let projection = |name: &str, output, init| {
            Projection::new(&scope.sub(name), stage, config.share, output, init)
        };
        let q = config.query_dim;
        Module {
            stage,
            tokens,
            scale: (!config.zero_mlp_delta_f)
                .then(|| scope.param("scale", &[], Init::Constant(config.scale))),
            token2feat: projection("mlp_token2feat", c, default.clone()),
            delta_f: projection("mlp_delta_f", c, delta),
            link: config.link.then(|| {
                let transform = projection("transform", q, default);
                (transform, Linear::default_init(&scope.sub("merge"), 3 * q, q))
            }),
        }
    }

    /// T of all layers, `[l, m, c]` (eq. 12).
    fn all_tokens(&self) -> Result<Tensor> {
        match &self.tokens {
            Tokens::Full(t) => Ok(t.get()),
            Tokens::LowRank(a, b) => Ok(ops::matmul(&a.get(), &b.get(), false, false)?),
        }
    }

    fn step(&self, softmax: bool) -> Result<StageStep> {
        let tokens = self.all_tokens()?;
        // Row 0 absorbs attention and adds nothing: it has no value (eq. 6).
        let valued = ops::narrow(&tokens, 1, 1, tokens.dim(1) - 1)?;
        let values = self.token2feat.all_layers(&valued)?;
        let queries = match &self.link {
            None => None,
            Some((transform, merge)) => {
                let q = transform.all_layers(&tokens)?;
                Some(merge.forward(&ops::token_link(&q)?)?)
            }
        };
        let layers = 0..self.stage.blocks;
        let delta_f = layers.map(|i| self.delta_f.of_layer(i)).collect::<Result<_>>()?;
        let scale = match &self.scale {
            Some(scale) => scale.get(),
            None => match (tokens.device(), tokens.dtype()) {
                (None, DType::F64) => Tensor::scalar(1.0f64),
                (None, _) => Tensor::scalar(1.0f32),
                (Some(device), _) => Tensor::scalar(1.0f32).constant_on(device, DType::F32)?,
            },
        };
        Ok(StageStep { tokens, values, delta_f, scale, queries, softmax })
    }
}

/// Rein for one step: the parts that are the same for every image.
struct ReinStep {
    stages: Vec<StageStep>,
    /// Linked queries `[m, c']` (eq. 10) of all stages, added.
    queries: Option<Tensor>,
}

/// The parts of one stage.
struct StageStep {
    /// T `[l, m, c]`.
    tokens: Tensor,
    /// T[1:] W_T + b_T, `[l, m - 1, c]`.
    values: Tensor,
    /// W_f `[c, c]` and b_f `[c]` of each layer.
    delta_f: Vec<(Tensor, Tensor)>,
    scale: Tensor,
    /// Linked queries `[m, c']` of this stage.
    queries: Option<Tensor>,
    softmax: bool,
}

impl StageStep {
    /// Returns f + s Δf after block `i` of the stage (eq. 2 to 7).
    fn refine(&self, i: usize, f: &Tensor, lead: usize) -> Result<Tensor> {
        let _range = range("rein");
        let layer = |t: &Tensor| ops::reshape(&ops::rows(t, i, 1)?, &t.shape()[1..]);
        let (tokens, values) = (layer(&self.tokens)?, layer(&self.values)?);
        let (weight, bias) = &self.delta_f[i];
        let parts = ops::ReinParts { tokens, values, weight, bias, scale: &self.scale };
        Ok(ops::rein(f, &parts, lead, self.softmax)?)
    }
}

impl AdapterStep for ReinStep {
    /// Refines the features after block `i`; the first `lead` rows do not change.
    fn leave(&self, mut i: usize, f: Tensor, lead: usize) -> Result<Tensor> {
        for stage in &self.stages {
            match i.checked_sub(stage.delta_f.len()) {
                None => return stage.refine(i, &f, lead),
                Some(behind) => i = behind,
            }
        }
        Ok(f)
    }

    fn queries(&self) -> Option<&Tensor> {
        self.queries.as_ref()
    }
}
