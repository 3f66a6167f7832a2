//! The Mask2Former head: pixel decoder, transformer decoder, predictions (spec mask2former §2, §3).

mod decoder;
mod pixel_decoder;

use dressage_engine::{Param, Tensor, ops, range};

use crate::backbone::Level;
use crate::layers::{Linear, Norm};
use crate::params::{Init, Scope};
use crate::{ModelError, Result};
use decoder::DecoderLayer;
pub use pixel_decoder::{PixelDecoder, PixelMaps};

/// Source of the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Own tables for position and content: the plain head of Freeze and Full.
    Own,
    /// Position from Rein, content from an own table.
    LinkedPosition,
    /// Position from Rein, content from a linear layer on it (`replace_query_feat`, the published
    /// setting).
    Linked,
}

/// Sizes of the head.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadConfig {
    /// Channels of the backbone's maps, from stride 4 to 32.
    pub in_channels: [usize; 4],
    /// Width c of everything inside.
    pub dim: usize,
    /// Width m of mask and pixel embeddings.
    pub mask_width: usize,
    /// Classes k, without "no object".
    pub classes: usize,
    /// Queries q.
    pub queries: usize,
    /// Attention heads, of deformable attention too.
    pub heads: usize,
    /// Sampling points per level of deformable attention.
    pub points: usize,
    /// Groups of the group norms.
    pub groups: usize,
    /// Layers of the pixel decoder's encoder.
    pub encoder_layers: usize,
    /// Hidden width of its feed-forward layers.
    pub encoder_ffn: usize,
    /// Layers of the transformer decoder.
    pub decoder_layers: usize,
    /// Hidden width of its feed-forward layers.
    pub decoder_ffn: usize,
    /// Source of the queries.
    pub source: Queries,
}

impl HeadConfig {
    /// The published head for maps of `in_channels` and `classes` classes.
    pub fn published(in_channels: [usize; 4], classes: usize, source: Queries) -> HeadConfig {
        HeadConfig {
            in_channels,
            dim: 256,
            mask_width: 256,
            classes,
            queries: 100,
            heads: 8,
            points: 4,
            groups: 32,
            encoder_layers: 6,
            encoder_ffn: 1024,
            decoder_layers: 9,
            decoder_ffn: 2048,
            source,
        }
    }
}

impl HeadConfig {
    /// Fails unless an adapter with this many tokens makes the queries of this head.
    ///
    /// # Errors
    /// Another number of queries.
    pub(crate) fn check_links(&self, tokens: usize) -> Result<()> {
        if tokens == self.queries {
            return Ok(());
        }
        Err(ModelError::Config(format!(
            "linked Rein makes one query per token: {tokens} tokens, but the head has {} queries",
            self.queries
        )))
    }
}

/// Eps of every norm in the head.
pub(crate) const EPS: f64 = 1e-5;

/// One prediction: before the first decoder layer or after one of them.
pub struct Prediction {
    /// Class logits `[b, q, k + 1]`; index k is "no object".
    pub cls: Tensor,
    /// Mask embeddings `[b, q, m]`.
    pub mask_embed: Tensor,
    /// Mask logits `[b, q, h, w]` at stride 4.
    pub mask: Tensor,
    /// Attention mask from `mask` for the next layer, 1 = not attended, before fully masked rows
    /// are reset. Absent where no layer follows.
    pub attn_mask_raw: Option<Tensor>,
    /// The same after the reset, as the next layer used it.
    pub attn_mask_used: Option<Tensor>,
}

/// Output of the head.
pub struct HeadOutput {
    /// All predictions, or the last one only.
    pub predictions: Vec<Prediction>,
    /// Per-pixel embeddings `[b, h * w, m]`. Mask logits are products of mask embeddings with
    /// these.
    pub mask_feature: Tensor,
}

enum QuerySource {
    Own { position: Param, content: Param },
    LinkedPosition { content: Param },
    Linked { content: Linear },
}

/// The head.
pub struct Head {
    config: HeadConfig,
    pixel_decoder: PixelDecoder,
    layers: Vec<DecoderLayer>,
    post_norm: Norm,
    level_embed: Param,
    cls_embed: Linear,
    mask_embed: [Linear; 3],
    source: QuerySource,
}

impl Head {
    /// Gets every parameter from `scope` (the reference's `decode_head.`), initialised as in spec
    /// mask2former §3.6.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(scope: &Scope, config: HeadConfig) -> Result<Head> {
        let c = config.dim;
        if ![config.heads, config.groups, 4].iter().all(|&n| n > 0 && c.is_multiple_of(n)) {
            return Err(ModelError::Config(format!(
                "head width {c} must divide into {} heads, {} groups and by 4",
                config.heads, config.groups
            )));
        }
        if config.mask_width == 0 {
            return Err(ModelError::Config("mask embeddings need at least one channel".into()));
        }
        let decoder = scope.sub("transformer_decoder");
        let table =
            |name: &str| scope.sub(name).param("weight", &[config.queries, c], Init::Normal(1.0));
        let mask_embed = scope.sub("mask_embed");
        let source = match config.source {
            Queries::Own => {
                QuerySource::Own { position: table("query_embed"), content: table("query_feat") }
            }
            Queries::LinkedPosition => QuerySource::LinkedPosition { content: table("query_feat") },
            Queries::Linked => QuerySource::Linked {
                content: Linear::default_init(&scope.sub("querys2feat"), c, c),
            },
        };
        Ok(Head {
            pixel_decoder: PixelDecoder::new(&scope.sub("pixel_decoder"), &config),
            layers: (0..config.decoder_layers)
                .map(|i| DecoderLayer::new(&decoder.sub("layers").sub(i), &config))
                .collect(),
            post_norm: Norm::new(&decoder.sub("post_norm"), c),
            level_embed: scope.sub("level_embed").param("weight", &[3, c], Init::Normal(1.0)),
            cls_embed: Linear::default_init(&scope.sub("cls_embed"), c, config.classes + 1),
            mask_embed: [(0, c), (2, c), (4, config.mask_width)]
                .map(|(i, to)| Linear::default_init(&mask_embed.sub(i), c, to)),
            source,
            config,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// The pixel decoder alone.
    pub fn pixel_decoder(&self) -> &PixelDecoder {
        &self.pixel_decoder
    }

    /// Position `[q, c]` and initial content `[q, c]` of the queries.
    fn queries(&self, linked: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let need = || {
            linked.cloned().ok_or_else(|| {
                ModelError::Config("the head expects queries from Rein, but its link is off".into())
            })
        };
        match &self.source {
            QuerySource::Own { position, content } => Ok((position.get(), content.get())),
            QuerySource::LinkedPosition { content } => Ok((need()?, content.get())),
            QuerySource::Linked { content } => {
                let q = need()?;
                let x = content.forward(&q)?;
                Ok((q, x))
            }
        }
    }

    /// Predictions from the pyramid (strides 4 to 32) and, for a linked head, Rein's queries `[q,
    /// c]`. With `last_only` each earlier prediction is dropped after the next layer has used its
    /// attention mask.
    ///
    /// # Errors
    /// Maps that do not fit, or missing queries.
    pub fn forward(
        &self,
        levels: &[Level],
        linked: Option<&Tensor>,
        last_only: bool,
    ) -> Result<HeadOutput> {
        let pixels = range("head.pixel_decoder");
        let maps = self.pixel_decoder.forward(levels)?;
        drop(pixels);
        let setting_up = range("head.queries_and_memories");
        let b = maps.mask_feature.dim(0);
        let (position, content) = self.queries(linked)?;
        let (memories, keys) = self.memories(&maps)?;
        let (h, w) = (maps.mask_feature.dim(1), maps.mask_feature.dim(2));
        let feature = ops::reshape(&maps.mask_feature, &[b, h * w, self.config.mask_width])?;
        let mut x = ops::broadcast(&content, b)?;
        drop(setting_up);
        let mut predictions = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let level = i % maps.memory.len();
            let next = [maps.memory[level].dim(1), maps.memory[level].dim(2)];
            let prediction = self.predict(i, &x, &feature, [h, w], Some(next))?;
            let _range = range(format_args!("head.layer {i}"));
            x = layer.forward(
                &x,
                &position,
                &keys[level],
                &memories[level],
                prediction.attn_mask_used.as_ref(),
            )?;
            if !last_only {
                predictions.push(prediction);
            }
        }
        predictions.push(self.predict(self.layers.len(), &x, &feature, [h, w], None)?);
        Ok(HeadOutput { predictions, mask_feature: feature })
    }

    /// Values `[b, n, c]` (maps plus level embedding) and keys (values plus position code) of each
    /// level.
    fn memories(&self, maps: &PixelMaps) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let embed = self.level_embed.get();
        let (mut values, mut keys) = (Vec::new(), Vec::new());
        for (i, map) in maps.memory.iter().enumerate() {
            let (b, h, w, c) = (map.dim(0), map.dim(1), map.dim(2), map.dim(3));
            let tokens = ops::reshape(map, &[b, h * w, c])?;
            let level = ops::reshape(&ops::rows(&embed, i, 1)?, &[c])?;
            let value = ops::add(&tokens, &level)?;
            keys.push(ops::add(&value, &ops::sine_position(h, w, c, map)?)?);
            values.push(value);
        }
        Ok((values, keys))
    }

    /// Prediction `i`, from content `x` `[b, q, c]`; `next` is the size of the level that the next
    /// layer attends to.
    fn predict(
        &self,
        i: usize,
        x: &Tensor,
        feature: &Tensor,
        size: [usize; 2],
        next: Option<[usize; 2]>,
    ) -> Result<Prediction> {
        let _range = range(format_args!("head.prediction {i}"));
        let z = self.post_norm.layer_norm(x, EPS)?;
        let cls = self.cls_embed.forward(&z)?;
        let [first, second, last] = &self.mask_embed;
        let e = last.forward(&second.forward_relu(&first.forward_relu(&z)?)?)?;
        let mask = ops::matmul(&e, feature, false, true)?;
        let mask = ops::reshape(&mask, &[x.dim(0), x.dim(1), size[0], size[1]])?;
        let (attn_mask_raw, attn_mask_used) = match next {
            None => (None, None),
            Some(next) => {
                let (raw, used) = ops::attention_mask(&mask.detach(), next)?;
                (Some(raw), Some(used))
            }
        };
        Ok(Prediction { cls, mask_embed: e, mask, attn_mask_raw, attn_mask_used })
    }
}
