//! From a recipe to a network, its losses and its data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dressage_engine::DType;
use dressage_kernels::adamw::AdamW;
use dressage_models::backbone::{DinoConfig, ReinConfig};
use dressage_models::criterion::{Criterion, CriterionConfig};
use dressage_models::head::{HeadConfig, Queries};
use dressage_models::weights::{
    Difference, StateDict, dinov2, fitted, has_head, is_backbone, recognise, same_size,
};
use dressage_models::{Method, ModelError, Segmenter, SegmenterConfig};

use crate::data::{Joined, Source};
use crate::optimiser::Optimiser;
use crate::recipe::{self, Recipe};
use crate::{Result, TrainError, checkpoint};

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
        mask_width: h.mask_width,
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
    Ok(SegmenterConfig { backbone, rein, head, method: m.method, precision: m.precision })
}

/// Builds the network. The backbone comes from the recipe's weights file, or from the seed if it
/// says `random`; adapter and head from its checkpoint, or from the seed if it names none.
///
/// # Errors
/// A file that is missing, damaged or does not fit; sizes that do not fit together.
pub fn build(recipe: &Recipe) -> Result<Segmenter> {
    let config = config(recipe)?;
    let trained = recipe.checkpoint().map(|path| trained(path, &config)).transpose()?;
    let whole = trained.as_ref().is_some_and(|t| t.names().any(|name| is_backbone(name)));
    let mut strict: Vec<String> = Vec::new();
    let mut weights = match recipe.weights().filter(|_| !whole) {
        None => StateDict::default(),
        Some(path) => {
            let dict = StateDict::open(path)?;
            same_size(&dict, &config.backbone)?;
            let own = ["blocks.", "norm.", "patch_embed.", "cls_token", "pos_embed", "register_"];
            strict.extend(own.map(|s| format!("backbone.{s}")));
            dinov2(dict, config.backbone.patch, config.backbone.grid)?
        }
    };
    // Checked against the network by itself, so that what is found now is the backbone's fault.
    weights.add(trained.into_iter().flatten());
    let strict: Vec<&str> = strict.iter().map(String::as_str).collect();
    Ok(Segmenter::new(config, DType::F32, recipe.train.seed, weights, &strict)?)
}

/// As [`build`], for a network whose trained part is restored from a run's checkpoint next: the
/// file that the run started from may be gone.
///
/// # Errors
/// As [`build`].
pub fn rebuild(recipe: &Recipe) -> Result<Segmenter> {
    let mut recipe = recipe.clone();
    if recipe.checkpoint().is_some_and(|file| !file.exists()) {
        recipe.model.checkpoint = PathBuf::new();
    }
    build(&recipe)
}

/// Adapter and head from a released checkpoint, an exported or a run's own one; with the backbone
/// if the file holds it.
fn trained(path: &Path, config: &SegmenterConfig) -> Result<StateDict> {
    let dict = StateDict::open(path)?;
    if !has_head(&dict) {
        let what = match recognise(&dict) {
            Some(known) => format!("it holds {} and no head", known.title()),
            None => "it holds no tensor of decode_head".to_string(),
        };
        return Err(ModelError::Mismatch {
            source_name: dict.origin().to_string(),
            network: "model.checkpoint".into(),
            difference: format!("{what}; files of backbones belong in model.weights"),
        }
        .into());
    }
    let (dict, wanted) = fitted(checkpoint::trained(dict), config)?;
    Difference::of(&dict, &wanted).none(&dict, "the network of the recipe")?;
    Ok(dict)
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
///
/// # Errors
/// No room for its moments on the device of the model.
pub fn optimiser(recipe: &Recipe, model: &Segmenter) -> Result<Optimiser> {
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
