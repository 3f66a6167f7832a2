//! From a recipe to a network, its losses and its data.

use std::sync::Arc;

use dressage_engine::DType;
use dressage_kernels::adamw::AdamW;
use dressage_models::backbone::{DinoConfig, ReinConfig};
use dressage_models::criterion::{Criterion, CriterionConfig};
use dressage_models::head::{HeadConfig, Queries};
use dressage_models::weights::{StateDict, dinov2};
use dressage_models::{Method, Precision, Segmenter, SegmenterConfig};

use crate::data::{Joined, Source};
use crate::optimiser::Optimiser;
use crate::recipe::{self, Recipe};
use crate::{Result, TrainError};

/// Sizes of the network that a recipe describes.
///
/// # Errors
/// Another number of taps than four.
pub fn config(recipe: &Recipe) -> Result<SegmenterConfig> {
    let (m, r, h) = (&recipe.model, &recipe.rein, &recipe.head);
    let taps = <[usize; 4]>::try_from(m.taps.as_slice()).map_err(|_| TrainError::Setting {
        setting: "model.taps",
        what: format!("names {} blocks, the head takes 4 maps", m.taps.len()),
    })?;
    let backbone = DinoConfig {
        embed_dim: m.embed_dim,
        depth: m.depth,
        heads: m.heads,
        patch: m.patch,
        grid: m.image / m.patch,
        ffn: m.ffn_form,
        hidden: m.ffn,
        registers: m.registers,
        taps,
        recompute: recipe.train.recompute,
    };
    let rein = (m.method == Method::Rein).then(|| ReinConfig {
        tokens: r.tokens,
        rank: r.rank,
        query_dim: h.width,
        patch: m.patch,
        link: r.link,
        softmax: r.softmax,
        zero_mlp_delta_f: r.zero_mlp_delta_f,
        ..ReinConfig::published(m.depth, m.embed_dim)
    });
    let linked = rein.as_ref().is_some_and(|r| r.link);
    let head = HeadConfig {
        in_channels: m.embed_dim,
        dim: h.width,
        classes: recipe.classes(),
        queries: h.queries,
        heads: h.heads,
        points: h.deform_points,
        groups: h.norm_groups,
        encoder_layers: h.encoder_layers,
        encoder_ffn: h.encoder_ffn,
        decoder_layers: h.decoder_layers,
        decoder_ffn: h.decoder_ffn,
        source: if linked { Queries::Linked } else { Queries::Own },
    };
    let precision = Precision::F32;
    Ok(SegmenterConfig { backbone, rein, head, method: m.method, precision })
}

/// Builds the network; the backbone comes from the recipe's weights file, or from the seed if it
/// says `random`.
///
/// # Errors
/// A weights file that is missing, damaged or does not fit; sizes that do not fit together.
pub fn build(recipe: &Recipe) -> Result<Segmenter> {
    let config = config(recipe)?;
    let (weights, strict): (_, Vec<String>) = match recipe.weights() {
        None => (StateDict::default(), Vec::new()),
        Some(path) => {
            let dict = StateDict::open(path)?;
            let dict = dinov2(dict, config.backbone.patch, config.backbone.grid)?;
            let strict =
                ["blocks.", "norm.", "patch_embed.", "cls_token", "register_tokens", "pos_embed"];
            (dict, strict.map(|s| format!("backbone.{s}")).to_vec())
        }
    };
    let strict: Vec<&str> = strict.iter().map(String::as_str).collect();
    Ok(Segmenter::new(config, DType::F32, recipe.train.seed, weights, &strict)?)
}

/// The losses of a recipe.
pub fn criterion(recipe: &Recipe) -> Criterion {
    let l = &recipe.loss;
    Criterion {
        config: CriterionConfig {
            classes: recipe.classes(),
            points: l.points,
            oversample: l.oversample,
            importance: l.importance,
            no_object: l.no_object,
            weights: [l.class_weight, l.mask_weight, l.dice_weight],
        },
    }
}

/// The optimiser of a recipe over what `model` trains.
pub fn optimiser(recipe: &Recipe, model: &Segmenter) -> Optimiser {
    let t = &recipe.train;
    let adamw = AdamW {
        lr: t.lr,
        beta1: t.beta1,
        beta2: t.beta2,
        eps: t.eps,
        weight_decay: t.weight_decay,
    };
    Optimiser::new(model.trainable(), &recipe.groups(), adamw)
}

/// All training sets as one source.
///
/// # Errors
/// No set, a folder without images, images without labels.
pub fn train_source(recipe: &Recipe) -> Result<Arc<dyn Source>> {
    let open = |set: &recipe::Set| source(recipe, set);
    let parts = recipe.data.train.iter().map(open).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Joined::new(parts)?))
}

/// Seed of drawn scenes; a constant, so that runs with other seeds see and are tested on the same
/// ones.
const SCENES: u64 = 1;

/// The samples of one set.
///
/// # Errors
/// As [`train_source`].
pub fn source(recipe: &Recipe, set: &recipe::Set) -> Result<Arc<dyn Source>> {
    recipe.data.open(set, &recipe.head.classes, SCENES)
}
