//! Rein: learnable tokens that refine a frozen backbone's features after every block. Sources: spec
//! peft-and-dgss §1, backbones §5; equations are numbered as in the paper.

use std::sync::Arc;

use dressage_engine::{DType, Param, Tensor, ops, range};

use super::{Adapter, AdapterStep};
use crate::layers::Linear;
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Sizes and switches of Rein.
#[derive(Debug, Clone, PartialEq)]
pub struct ReinConfig {
    /// Layers N, one per refined block.
    pub layers: usize,
    /// Feature width c.
    pub embed_dim: usize,
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
        ReinConfig {
            layers,
            embed_dim,
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
    fn new(scope: &Scope, config: &ReinConfig, output: usize, init: Init) -> Projection {
        let c = config.embed_dim;
        if config.share {
            let weight = scope.param("weight", &[output, c], init.clone());
            return Projection { weight, bias: scope.param("bias", &[output], init), shared: true };
        }
        let n = config.layers;
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
    tokens: Tokens,
    scale: Option<Param>,
    token2feat: Projection,
    delta_f: Projection,
    link: Option<(Projection, Linear)>,
}

impl Rein {
    /// Gets every parameter from `scope` (the reference's `backbone.reins.`), initialised as in
    /// spec backbones §5.1.
    ///
    /// # Errors
    /// Fewer than two tokens: the first never reaches the features.
    pub fn new(scope: &Scope, config: ReinConfig) -> Result<Rein> {
        let (n, m, r, c) = (config.layers, config.tokens, config.rank, config.embed_dim);
        if m < 2 {
            return Err(ModelError::Config(format!("rein needs at least 2 tokens, not {m}")));
        }
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
        let q = config.query_dim;
        Ok(Rein {
            tokens,
            scale: (!config.zero_mlp_delta_f)
                .then(|| scope.param("scale", &[], Init::Constant(config.scale))),
            token2feat: Projection::new(&scope.sub("mlp_token2feat"), &config, c, default.clone()),
            delta_f: Projection::new(&scope.sub("mlp_delta_f"), &config, c, delta),
            link: config.link.then(|| {
                let transform = Projection::new(&scope.sub("transform"), &config, q, default);
                (transform, Linear::default_init(&scope.sub("merge"), 3 * q, q))
            }),
            config,
        })
    }

    /// Sizes and switches.
    pub fn config(&self) -> &ReinConfig {
        &self.config
    }

    /// T of all layers, `[l, m, c]` (eq. 12).
    fn all_tokens(&self) -> Result<Tensor> {
        match &self.tokens {
            Tokens::Full(t) => Ok(t.get()),
            Tokens::LowRank(a, b) => Ok(ops::matmul(&a.get(), &b.get(), false, false)?),
        }
    }
}

impl Adapter for Rein {
    /// Computes tokens, their values and the linked queries.
    fn step(&self) -> Result<Arc<dyn AdapterStep>> {
        let _range = range("rein.tokens");
        let (m, n) = (self.config.tokens, self.config.layers);
        let tokens = self.all_tokens()?;
        // Row 0 absorbs attention and adds nothing: it has no value (eq. 6).
        let values = self.token2feat.all_layers(&ops::narrow(&tokens, 1, 1, m - 1)?)?;
        let queries = match &self.link {
            None => None,
            Some((transform, merge)) => {
                let q = transform.all_layers(&tokens)?;
                Some(merge.forward(&ops::token_link(&q)?)?)
            }
        };
        let delta_f = (0..n).map(|i| self.delta_f.of_layer(i)).collect::<Result<_>>()?;
        let scale = match &self.scale {
            Some(scale) => scale.get(),
            None => match (tokens.device(), tokens.dtype()) {
                (None, DType::F64) => Tensor::scalar(1.0f64),
                (None, _) => Tensor::scalar(1.0f32),
                (Some(device), _) => Tensor::scalar(1.0f32).constant_on(device, DType::F32)?,
            },
        };
        let softmax = self.config.softmax;
        Ok(Arc::new(ReinStep { tokens, values, delta_f, scale, queries, softmax }))
    }
}

/// Rein for one step: the parts that are the same for every image.
struct ReinStep {
    /// T `[l, m, c]`.
    tokens: Tensor,
    /// T[1:] W_T + b_T, `[l, m - 1, c]`.
    values: Tensor,
    /// W_f `[c, c]` and b_f `[c]` of each layer.
    delta_f: Vec<(Tensor, Tensor)>,
    scale: Tensor,
    /// Linked queries `[m, c']` (eq. 10).
    queries: Option<Tensor>,
    softmax: bool,
}

impl AdapterStep for ReinStep {
    /// Returns f + s Δf after block `i` (eq. 2 to 7). The first `lead` rows do not change.
    fn leave(&self, i: usize, f: Tensor, lead: usize) -> Result<Tensor> {
        let _range = range("rein");
        let layer = |t: &Tensor| ops::reshape(&ops::rows(t, i, 1)?, &t.shape()[1..]);
        let (tokens, values) = (layer(&self.tokens)?, layer(&self.values)?);
        let (weight, bias) = &self.delta_f[i];
        let parts = ops::ReinParts { tokens, values, weight, bias, scale: &self.scale };
        Ok(ops::rein(&f, &parts, lead, self.softmax)?)
    }

    fn queries(&self) -> Option<&Tensor> {
        self.queries.as_ref()
    }
}
