//! Multi-scale deformable attention pixel decoder (spec mask2former §2).

use std::sync::Arc;

use dressage_engine::{Param, Tensor, checkpoint, ops, range};

use super::{EPS, HeadConfig};
use crate::backbone::{Level, resize_by};
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};

/// Levels that enter the encoder, lowest resolution first.
const LEVELS: usize = 3;

/// Output of the pixel decoder, channels last.
pub struct PixelMaps {
    /// `[b, h, w, m]` at stride 4: the pixel embeddings.
    pub mask_feature: Tensor,
    /// `[b, h, w, c]` at strides 32, 16 and 8.
    pub memory: Vec<Tensor>,
}

struct InputConv {
    conv: Linear,
    norm: Norm,
}

struct EncoderLayer {
    sampling_offsets: Linear,
    attention_weights: Linear,
    value_proj: Linear,
    output_proj: Linear,
    ffn: [Linear; 2],
    norms: [Norm; 2],
}

impl EncoderLayer {
    fn new(scope: &Scope, config: &HeadConfig) -> EncoderLayer {
        let (c, hidden) = (config.dim, config.encoder_ffn);
        let attn = scope.sub("self_attn");
        let n = config.heads * LEVELS * config.points;
        let zero = || Init::Constant(0.0);
        let projection =
            |name: &str| Linear::new(&attn.sub(name), c, c, Init::xavier_uniform(c, c), zero());
        let ring = Init::Values(ring(config.heads, config.points));
        EncoderLayer {
            sampling_offsets: Linear::new(&attn.sub("sampling_offsets"), c, 2 * n, zero(), ring),
            attention_weights: Linear::new(&attn.sub("attention_weights"), c, n, zero(), zero()),
            value_proj: projection("value_proj"),
            output_proj: projection("output_proj"),
            ffn: feed_forward(scope, c, hidden),
            norms: [0, 1].map(|i| Norm::new(&scope.sub("norms").sub(i), c)),
        }
    }

    /// Applies the layer to `h` `[b, s, c]` with positions `pos` `[s, c]`.
    fn forward(
        &self,
        h: &Tensor,
        pos: &Tensor,
        sizes: &[(usize, usize)],
        config: &HeadConfig,
    ) -> Result<Tensor> {
        let (b, s, c) = (h.dim(0), h.dim(1), h.dim(2));
        let (m, p) = (config.heads, config.points);
        let q = ops::add(h, pos)?;
        let value = ops::reshape(&self.value_proj.forward(h)?, &[b, s, m, c / m])?;
        let offsets = self.sampling_offsets.forward(&q)?;
        let offsets = ops::reshape(&offsets, &[b, s, m, LEVELS, p, 2])?;
        let logits = self.attention_weights.forward(&q)?;
        let logits = ops::reshape(&logits, &[b, s, m, LEVELS * p])?;
        let o = ops::ms_deform_attn(&value, &offsets, &logits, sizes)?;
        let h = ops::residual(h, &self.output_proj.forward(&o)?, None)?;
        let h = self.norms[0].layer_norm(&h, EPS)?;
        let f = Linear::feed_forward(&self.ffn, &h)?;
        self.norms[1].layer_norm(&ops::residual(&h, &f, None)?, EPS)
    }
}

/// Feed-forward pair under the reference's names, Xavier-normal weights and default biases.
pub(super) fn feed_forward(scope: &Scope, c: usize, hidden: usize) -> [Linear; 2] {
    let ffn = scope.sub("ffn").sub("layers");
    let layer = |name: &str, i: usize, o: usize| {
        Linear::new(&ffn.sub(name), i, o, Init::xavier_normal(i, o), Init::default_linear(i))
    };
    [layer("0.0", c, hidden), layer("1", hidden, c)]
}

/// Initial bias of the sampling offsets, `[head, level, point, xy]`. Head m points in direction
/// 2πm/heads, scaled to the unit square; point p is at p + 1 times that.
fn ring(heads: usize, points: usize) -> Vec<f64> {
    let mut bias = Vec::with_capacity(heads * LEVELS * points * 2);
    for m in 0..heads {
        let angle = std::f64::consts::TAU * m as f64 / heads as f64;
        let (x, y) = (angle.cos(), angle.sin());
        let longest = x.abs().max(y.abs());
        for _ in 0..LEVELS {
            for p in 0..points {
                bias.extend([x, y].map(|v| v / longest * (p + 1) as f64));
            }
        }
    }
    bias
}

/// The pixel decoder.
pub struct PixelDecoder {
    config: HeadConfig,
    input_convs: Vec<InputConv>,
    encoder: Vec<Arc<EncoderLayer>>,
    level_encoding: Param,
    lateral: InputConv,
    output_conv: Param,
    output_norm: Norm,
    mask_feature: Linear,
}

impl PixelDecoder {
    /// Gets every parameter from `scope`.
    pub fn new(scope: &Scope, config: &HeadConfig) -> PixelDecoder {
        let ([finest, ref coarser @ ..], c, m) =
            (config.in_channels, config.dim, config.mask_width);
        let zero = Init::Constant(0.0);
        let input_convs = (coarser.iter().rev().enumerate())
            .map(|(l, &i)| {
                let scope = scope.sub("input_convs").sub(l);
                let init = Init::xavier_uniform(i, c);
                InputConv {
                    conv: Linear::conv1x1(&scope.sub("conv"), [c, i], init, Some(zero.clone())),
                    norm: Norm::new(&scope.sub("gn"), c),
                }
            })
            .collect();
        let encoder = scope.sub("encoder").sub("layers");
        let lateral = scope.sub("lateral_convs").sub(0);
        let output = scope.sub("output_convs").sub(0);
        let feature = scope.sub("mask_feature");
        PixelDecoder {
            input_convs,
            encoder: (0..config.encoder_layers)
                .map(|l| Arc::new(EncoderLayer::new(&encoder.sub(l), config)))
                .collect(),
            level_encoding: scope.sub("level_encoding").param(
                "weight",
                &[LEVELS, c],
                Init::Normal(1.0),
            ),
            lateral: InputConv {
                conv: Linear::conv1x1(
                    &lateral.sub("conv"),
                    [c, finest],
                    Init::kaiming_uniform(finest),
                    None,
                ),
                norm: Norm::new(&lateral.sub("gn"), c),
            },
            output_conv: output.sub("conv").param(
                "weight",
                &[c, c, 3, 3],
                Init::kaiming_uniform(9 * c),
            ),
            output_norm: Norm::new(&output.sub("gn"), c),
            mask_feature: Linear::conv1x1(&feature, [m, c], Init::kaiming_uniform(c), Some(zero)),
            config: config.clone(),
        }
    }

    /// Applies the 1×1 convolution and group norm of a level. The resize is on the cheaper side of
    /// the convolution.
    fn project(&self, input: &InputConv, level: &Level) -> Result<Tensor> {
        let y = if level.factor > 1.0 {
            resize_by(&input.conv.forward(&level.map)?, level.factor)?
        } else {
            input.conv.forward(&level.resized()?)?
        };
        input.norm.group_norm(&y, self.config.groups)
    }

    /// Maps from a pyramid of four levels, strides 4 to 32.
    ///
    /// # Errors
    /// Another number of levels, or maps that do not fit.
    pub fn forward(&self, levels: &[Level]) -> Result<PixelMaps> {
        let [finest, rest @ ..] = levels else {
            return Err(ModelError::Config("the pixel decoder needs a pyramid".into()));
        };
        if rest.len() != LEVELS {
            let text = format!("the pixel decoder needs 4 levels, not {}", levels.len());
            return Err(ModelError::Config(text));
        }
        let memory = self.encode(rest)?;
        let _range = range("mask_feature");
        let y = self.project(&self.lateral, finest)?;
        let (h, w) = (y.dim(1), y.dim(2));
        let top = memory.last().map(|m| ops::resize_to(m, h, w)).transpose()?;
        let y = match top {
            Some(top) => ops::residual(&y, &top, None)?,
            None => y,
        };
        let y = ops::conv2d(&y, &self.output_conv.get(), None, 1, 1)?;
        let y = ops::relu(&self.output_norm.group_norm(&y, self.config.groups)?)?;
        Ok(PixelMaps { mask_feature: self.mask_feature.forward(&y)?, memory })
    }

    /// Runs the deformable encoder on three levels, given from stride 8 to 32. Returns maps from
    /// stride 32 to 8.
    fn encode(&self, levels: &[Level]) -> Result<Vec<Tensor>> {
        let c = self.config.dim;
        let encoding = self.level_encoding.get();
        let (mut tokens, mut positions, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (input, level)) in self.input_convs.iter().zip(levels.iter().rev()).enumerate() {
            let map = self.project(input, level)?;
            let (b, h, w) = (map.dim(0), map.dim(1), map.dim(2));
            let code = ops::sine_position(h, w, c, &map)?;
            let level_row = ops::reshape(&ops::rows(&encoding, i, 1)?, &[c])?;
            positions.push(ops::add(&code, &level_row)?);
            tokens.push(ops::reshape(&map, &[b, h * w, c])?);
            sizes.push((h, w));
        }
        let mut x = ops::concat(&tokens.iter().collect::<Vec<_>>(), 1)?;
        let pos = ops::concat(&positions.iter().collect::<Vec<_>>(), 0)?;
        for (i, layer) in self.encoder.iter().enumerate() {
            let _range = range(format_args!("layer {i}"));
            let (layer, pos, sizes) = (layer.clone(), pos.clone(), sizes.clone());
            let config = self.config.clone();
            x = checkpoint(&[x], move |x| {
                let y = layer.forward(&x[0], &pos, &sizes, &config);
                y.map_err(|error| error.into_engine("encoder", &x[0]))
            })?;
        }
        let b = x.dim(0);
        let mut start = 0;
        sizes
            .iter()
            .map(|&(h, w)| {
                let map = ops::narrow(&x, 1, start, h * w)?;
                start += h * w;
                Ok(ops::reshape(&map, &[b, h, w, c])?)
            })
            .collect()
    }
}
