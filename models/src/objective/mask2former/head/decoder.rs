//! One layer of the transformer decoder: masked cross-attention, self-attention, feed-forward
//! (spec mask2former §3.4).

use dressage_engine::{Param, Tensor, ops, range};

use super::pixel_decoder::feed_forward;
use super::{EPS, HeadConfig};
use crate::Result;
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};

/// Multi-head attention with packed input projection.
struct MultiHead {
    in_proj_weight: Param,
    in_proj_bias: Param,
    out_proj: Linear,
    heads: usize,
}

impl MultiHead {
    fn new(scope: &Scope, c: usize, heads: usize) -> MultiHead {
        let scope = scope.sub("attn");
        let zero = Init::Constant(0.0);
        let out = Init::xavier_normal(c, c);
        MultiHead {
            // PyTorch takes the packed matrix as one with 3c outputs.
            in_proj_weight: scope.param(
                "in_proj_weight",
                &[3 * c, c],
                Init::xavier_normal(c, 3 * c),
            ),
            in_proj_bias: scope.param("in_proj_bias", &[3 * c], zero.clone()),
            out_proj: Linear::new(&scope.sub("out_proj"), c, c, out, zero),
            heads,
        }
    }

    fn forward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        blocked: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (w, b) = (self.in_proj_weight.get(), self.in_proj_bias.get());
        let c = w.dim(1);
        let project = |x: &Tensor, part: usize| {
            let weight = ops::rows(&w, part * c, c)?;
            ops::linear(x, &weight, Some(&ops::rows(&b, part * c, c)?))
        };
        let y =
            ops::attention(&project(q, 0)?, &project(k, 1)?, &project(v, 2)?, self.heads, blocked)?;
        self.out_proj.forward(&y)
    }
}

pub struct DecoderLayer {
    cross_attn: MultiHead,
    self_attn: MultiHead,
    ffn: [Linear; 2],
    norms: [Norm; 3],
}

impl DecoderLayer {
    pub fn new(scope: &Scope, config: &HeadConfig) -> DecoderLayer {
        let c = config.dim;
        DecoderLayer {
            cross_attn: MultiHead::new(&scope.sub("cross_attn"), c, config.heads),
            self_attn: MultiHead::new(&scope.sub("self_attn"), c, config.heads),
            ffn: feed_forward(scope, c, config.decoder_ffn),
            norms: [0, 1, 2].map(|i| Norm::new(&scope.sub("norms").sub(i), c)),
        }
    }

    /// Applies the layer to `x` `[b, q, c]`, `position` `[q, c]`, `key` and `value` `[b, n, c]`,
    /// `blocked` `[b, q, n]`.
    pub fn forward(
        &self,
        x: &Tensor,
        position: &Tensor,
        key: &Tensor,
        value: &Tensor,
        blocked: Option<&Tensor>,
    ) -> Result<Tensor> {
        let part = range("cross-attention");
        let a = self.cross_attn.forward(&ops::add(x, position)?, key, value, blocked)?;
        let x = self.norms[0].layer_norm(&ops::residual(x, &a, None)?, EPS)?;
        drop(part);
        let part = range("self-attention");
        let q = ops::add(&x, position)?;
        let a = self.self_attn.forward(&q, &q, &x, None)?;
        let x = self.norms[1].layer_norm(&ops::residual(&x, &a, None)?, EPS)?;
        drop(part);
        let _part = range("mlp");
        let f = Linear::feed_forward(&self.ffn, &x)?;
        self.norms[2].layer_norm(&ops::residual(&x, &f, None)?, EPS)
    }
}
