//! Construction of a network, its losses and its data from a recipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use dressage_engine::{DType, Role};
use dressage_kernels::ops::adamw::AdamW;
use dressage_models::adapter::{
    self, AdaptFormerConfig, AdapterConfig, Decomposition, LoraConfig, ReinConfig,
};
use dressage_models::backbone::{
    BackboneConfig, ClassToken, ConvNextConfig, ResNetConfig, VitConfig,
};
use dressage_models::objective::ObjectiveConfig;
use dressage_models::objective::deconv::DeconvConfig;
use dressage_models::objective::mask2former::criterion::CriterionConfig;
use dressage_models::objective::mask2former::head::{HeadConfig, Queries};
use dressage_models::objective::per_pixel::PerPixelConfig;
use dressage_models::objective::semfpn::SemFpnConfig;
use dressage_models::weights::{
    Difference, Fitted, HeadIn, StateDict, Stored, convert_backbone, fitted, recognise,
    refuse_part, same_size,
};
use dressage_models::{Method, ModelError, Segmenter, SegmenterConfig};

use crate::data::{Joined, Source};
use crate::optimiser::{MOMENTS, Optimiser};
use crate::recipe::{self, HeadKind, Recipe};
use crate::{Result, TrainError, checkpoint, machine};

/// Sizes of the network that a recipe describes.
///
/// # Errors
/// A number of taps other than four.
pub fn config(recipe: &Recipe) -> Result<SegmenterConfig> {
    let (m, r, h) = (&recipe.model, &recipe.rein, &recipe.head);
    let taps = <[usize; 4]>::try_from(m.taps.as_slice()).map_err(|_| TrainError::Setting {
        setting: "model.taps",
        what: format!("names {} blocks, but the head needs 4", m.taps.len()),
    })?;
    let vit = |base: &VitConfig| VitConfig {
        embed_dim: m.embed_dim,
        depth: m.depth,
        heads: m.heads,
        patch: m.patch,
        grid: m.image / m.patch,
        ffn: m.ffn_form,
        hidden: m.ffn,
        registers: m.registers,
        tap_norm: m.tap_norm,
        taps,
        drop_path: m.drop_path,
        class_token: match base.class_token {
            ClassToken::Twice if !m.double_class_token => ClassToken::Once,
            token => token,
        },
        ..base.clone()
    };
    let backbone = match &recipe::base(&m.backbone).config {
        BackboneConfig::Vit(base) => BackboneConfig::Vit(vit(base)),
        BackboneConfig::ConvNext(_) => {
            BackboneConfig::ConvNext(ConvNextConfig::doubling(m.embed_dim, stages(recipe)?))
        }
        BackboneConfig::ResNet(base) => {
            // The maps of a stage have more channels than its bottlenecks, and the first of these
            // as many as the stem.
            let width = m.embed_dim * base.widths[0] / base.stages()[0].width;
            BackboneConfig::ResNet(ResNetConfig {
                dilated: m.dilated,
                frozen_statistics: m.frozen_statistics,
                ..ResNetConfig::doubling(m.stem, width, stages(recipe)?)
            })
        }
    };
    let mut adapter = m.method.adapter(&backbone);
    match &mut adapter {
        None => {}
        Some(AdapterConfig::Rein(rein)) => {
            *rein = ReinConfig {
                tokens: r.tokens,
                rank: r.rank,
                query_dim: h.width,
                link: r.link,
                share: r.share,
                softmax: r.softmax,
                zero_mlp_delta_f: r.zero_mlp_delta_f,
                ..rein.clone()
            }
        }
        Some(AdapterConfig::Lora(lora)) => {
            let recipe::Lora { rank, alpha, dropout, targets } = recipe.lora;
            *lora = LoraConfig { rank, alpha, dropout, targets, ..lora.clone() };
        }
        Some(AdapterConfig::AdaptFormer(adaptformer)) => {
            let recipe::AdaptFormer { bottleneck, scale, dropout } = recipe.adaptformer;
            *adaptformer = AdaptFormerConfig { bottleneck, scale, dropout, ..adaptformer.clone() };
        }
        Some(AdapterConfig::Vpt(vpt)) => vpt.prompts = recipe.vpt.prompts,
        Some(AdapterConfig::Decomposed(config)) => {
            let (soma, recycle) = (&recipe.soma, &recipe.recycle_lora);
            (config.first, config.decomposition) = match m.method {
                Method::Soma => (soma.first_block, Decomposition::Singular { rank: soma.rank }),
                _ => {
                    let recipe::RecycleLora { rank, second_rank, first_block, .. } = *recycle;
                    (first_block, Decomposition::PivotedQr { rank, second_rank })
                }
            };
        }
    }
    let linked = adapter.as_ref().and_then(AdapterConfig::rein).is_some_and(|rein| rein.link);
    let head = HeadConfig {
        in_channels: backbone.widths(),
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
    let objective = match h.kind {
        HeadKind::Mask2former => ObjectiveConfig::Mask2Former { head, loss: criterion(recipe) },
        HeadKind::PerPixel => ObjectiveConfig::PerPixel(PerPixelConfig {
            in_channels: backbone.widths().to_vec(),
            classes: recipe.classes(),
        }),
        HeadKind::Deconv => ObjectiveConfig::Deconv(DeconvConfig {
            in_channels: backbone.widths().to_vec(),
            width: h.width,
            classes: recipe.classes(),
        }),
        HeadKind::Semfpn => ObjectiveConfig::SemFpn(SemFpnConfig {
            in_channels: backbone.widths(),
            neck: h.width,
            channels: h.fpn_width,
            classes: recipe.classes(),
            dropout: h.dropout,
        }),
    };
    let (method, precision, recompute) = (m.method, m.precision, recipe.train.recompute);
    let merge = m.merge_adapter;
    Ok(SegmenterConfig { backbone, adapter, objective, method, precision, recompute, merge })
}

/// Blocks of each stage of a backbone that has several.
fn stages(recipe: &Recipe) -> Result<[usize; 4]> {
    let stages = &recipe.model.stages;
    stages.as_slice().try_into().map_err(|_| TrainError::Setting {
        setting: "model.stages",
        what: format!("names {} stages, but {} has 4", stages.len(), recipe.model.backbone),
    })
}

/// Builds the network. The backbone comes from the recipe's weights file, or from the seed if it
/// says `random`. Adapter and head come from its checkpoint, or from the seed if it names none.
///
/// # Errors
/// A file that is missing, damaged, does not fit or contains NaN; sizes that do not fit together.
pub fn build(recipe: &Recipe) -> Result<Segmenter> {
    build_within(recipe, machine::available())
}

/// Builds the network as [`build`] does, with `room` bytes of memory (`None`: unknown). Weights are
/// copied on load, so that changes of their file do not affect them. If the copy takes more than
/// there is, f32 tensors are used in place, and the files are watched ([`Segmenter::check_files`]).
///
/// # Errors
/// As [`build`].
pub fn build_within(recipe: &Recipe, room: Option<usize>) -> Result<Segmenter> {
    build_with(recipe, room, Vec::new())
}

fn build_with(
    recipe: &Recipe,
    room: Option<usize>,
    constants: Vec<(String, Stored)>,
) -> Result<Segmenter> {
    let config = config(recipe)?;
    built(recipe, config, room, constants).map_err(|error| match error {
        TrainError::Model(ModelError::Damaged { path, cause }) => {
            let own = recipe.checkpoint() == Some(&path);
            let advice = if own { "export or copy it again" } else { "fetch or copy it again" };
            ModelError::Damaged { path, cause: format!("{cause}; {advice}") }.into()
        }
        other => other,
    })
}

fn built(
    recipe: &Recipe,
    config: SegmenterConfig,
    room: Option<usize>,
    constants: Vec<(String, Stored)>,
) -> Result<Segmenter> {
    let trained = recipe.checkpoint().map(|path| trained(path, &config)).transpose()?;
    let whole = trained.as_ref().is_some_and(|trained| trained.whole);
    let mut weights = match recipe.weights().filter(|_| !whole) {
        None => StateDict::default(),
        Some(path) => backbone(path, &config)?,
    };
    // Each was checked against the network separately, so that an error concerns one of them.
    weights.add(trained.into_iter().flat_map(|trained| trained.dict));
    weights.add(constants);
    let copied: usize = weights.iter().map(|(_, t)| t.len() * size_of::<f32>()).sum();
    if room.is_some_and(|room| room < copied) {
        weights.use_in_place();
    }
    let model = Segmenter::new(config, DType::F32, recipe.train.seed, weights, &[])?;
    if copied > 0 {
        // Frees the buffers of values that were read to be resized or rounded.
        dressage_engine::memory::trim();
    }
    Ok(model)
}

/// Opens the backbone of `model.weights`, complete and with the network's shapes.
fn backbone(path: &Path, config: &SegmenterConfig) -> Result<StateDict> {
    let dict = opened(path, "model.weights")?;
    same_size(&dict, &config.backbone)?;
    // A file that does not fit is reported as such, even if it is truncated too.
    let whole = dict.check_end();
    let dict = convert_backbone(dict, &config.backbone)?.renamed(BACKBONE, "");
    let shapes = Segmenter::shapes(config.clone())?.into_iter();
    let own = shapes.filter(|(_, param)| param.kind.role == Role::Backbone);
    let wanted = own.map(|(name, param)| (name[BACKBONE.len()..].to_string(), param.shape));
    let mut difference = Difference::of(&dict, &wanted.collect());
    difference.left_over.retain(|(name, _)| !name.contains("reins."));
    difference.none(&dict, "the network")?;
    whole?;
    Ok(dict.renamed("", BACKBONE))
}

/// Opens the complete weights that `setting` names.
fn opened(path: &Path, setting: &str) -> Result<StateDict> {
    if let Err(error) = fs::metadata(path)
        && error.kind() == io::ErrorKind::NotFound
    {
        let cause = format!("cannot open weights: {error}; set {setting}=FILE to one that exists");
        return Err(ModelError::Read { path: path.into(), cause }.into());
    }
    refuse_part(path)?;
    Ok(StateDict::open_network(path)?)
}

/// Prefix of the backbone's names in the network, absent in its file.
const BACKBONE: &str = "backbone.";

/// Builds a network whose trained part is restored from the checkpoint `dict` of a run next. The
/// file that the run started from may no longer exist. Constants of the adapter are the
/// checkpoint's, not computed anew. An adapter that is merged is the checkpoint's too.
///
/// # Errors
/// As [`build`].
pub fn rebuild(recipe: &Recipe, dict: &StateDict) -> Result<Segmenter> {
    let mut recipe = recipe.clone();
    if recipe.checkpoint().is_some_and(|file| !file.exists()) {
        recipe.model.checkpoint = PathBuf::new();
    }
    let taken = |name: &str| match recipe.model.merge_adapter {
        true => adapter::is_adapter(name) && !name.starts_with(MOMENTS),
        false => adapter::is_constant(name),
    };
    let constants = dict.iter().filter(|(name, _)| taken(name));
    let constants = constants.map(|(name, t)| (name.clone(), t.clone())).collect();
    build_with(&recipe, machine::available(), constants)
}

/// Opens adapter and head from a released or exported checkpoint, or from one of a run. The
/// backbone is included if the file has it.
fn trained(path: &Path, config: &SegmenterConfig) -> Result<Fitted> {
    let dict = opened(path, "model.checkpoint")?;
    // The whole file is checked: damage to unused tensors of a run's checkpoint is damage too.
    // Moments of an optimiser may be zero, and a run's checkpoint is written whole or not at all.
    let own = dict.metadata().contains_key(checkpoint::NOTES);
    let whole = if own { dict.check_sums() } else { dict.check() };
    if HeadIn::of(&dict).is_none() {
        let what = match recognise(&dict) {
            Some(known) => format!("it holds {} and no head", known.title()),
            None => format!("it holds no tensor of decode_head, but {}", dict.first_names()),
        };
        return Err(ModelError::Mismatch {
            source_name: dict.origin().to_string(),
            network: "model.checkpoint".into(),
            difference: format!("{what}; files of backbones belong in model.weights"),
        }
        .into());
    }
    let fitted = fitted(checkpoint::trained(dict), config)?;
    Difference::of(&fitted.dict, &fitted.wanted).none(&fitted.dict, "the network of the recipe")?;
    whole?;
    Ok(fitted)
}

/// The losses of Mask2Former in a recipe.
fn criterion(recipe: &Recipe) -> CriterionConfig {
    let l = &recipe.loss;
    CriterionConfig {
        classes: recipe.classes(),
        points: l.points,
        oversample: l.oversample,
        importance: l.importance,
        no_object: l.no_object,
        weights: [l.class_weight, l.mask_weight, l.dice_weight],
    }
}

/// The optimiser of a recipe over the trainable parameters of `model`.
///
/// # Errors
/// Too little memory for its moments and averages on the device of the model.
pub fn optimiser(recipe: &Recipe, model: &Segmenter) -> Result<Optimiser> {
    let t = &recipe.train;
    let adamw = AdamW {
        lr: t.lr,
        beta1: t.beta1,
        beta2: t.beta2,
        eps: t.eps,
        weight_decay: t.weight_decay,
        average: t.ema.rate,
    };
    let optimiser = Optimiser::new(model.trainable(), &recipe.groups(), adamw)?;
    let optimiser = optimiser.with_clip_norm(t.clip_norm);
    if t.ema.rate > 0.0 { optimiser.with_average() } else { Ok(optimiser) }
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

/// Seed of drawn scenes. It is a constant, so that runs with other seeds train and test on the same
/// scenes.
const SCENES: u64 = 1;

/// The samples of one set.
///
/// # Errors
/// As [`train_source`].
pub fn source(recipe: &Recipe, set: &recipe::Set) -> Result<Arc<dyn Source>> {
    recipe.data.open(set, &recipe.head.classes, SCENES)
}
