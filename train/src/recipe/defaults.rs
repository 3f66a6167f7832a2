//! The published settings, from which every recipe starts (spec training-and-data §1.1, backbones
//! §1.1).

use std::path::PathBuf;

use dressage_engine::RecomputePolicy;
use dressage_models::Precision;
use dressage_models::backbone::published::{FFN_RATIO, NAMES};
use dressage_models::backbone::{PUBLISHED, Published};

use super::{
    Augment, Data, Eval, EvalMode, EvalSet, Head, Loss, Model, OnError, Recipe, Rein, Run,
    SaveSignal, Set, SourceKind, Train,
};
use crate::data::Ids;
use crate::groups::Method;
use crate::palette::CITYSCAPES;
use crate::scenes::Domain;

/// Names that `model.backbone` takes.
pub(super) const BACKBONES: &[&str] = &{
    let mut names = [CUSTOM; NAMES.len() + 1];
    let mut i = 0;
    while i < NAMES.len() {
        names[i] = NAMES[i];
        i += 1;
    }
    names
};

/// Value of `model.backbone` for sizes that are not published.
const CUSTOM: &str = "custom";

/// Value of `model.backbone` that is not set.
pub(super) const BACKBONE: &str = "dinov2-l";

/// The published backbone of a recipe. One with its own sizes starts from those of the smallest.
pub(crate) fn base(backbone: &str) -> &'static Published {
    PUBLISHED.iter().find(|published| published.name == backbone).unwrap_or(&PUBLISHED[0])
}

/// Names of the id tables that `id_map` takes (spec training-and-data §4, §5).
pub(super) const ID_MAPS: &[&str] =
    &["train_ids", "cityscapes", "gtav", "mapillary", "synthia", "urbansyn"];

/// Names of the looks of drawn scenes.
pub(super) const DOMAINS: &[&str] = &["day", "night", "fog", "rain", "snow", "palette"];

/// The published settings for a backbone of [`BACKBONES`] and a crop; no data, no weights.
pub(super) fn published(backbone: &str, crop: usize) -> Recipe {
    Recipe {
        name: String::new(),
        about: String::new(),
        derived: vec![],
        model: model(backbone, crop),
        rein: Rein { tokens: 100, rank: 16, link: true, softmax: true, zero_mlp_delta_f: false },
        head: head(),
        loss: Loss {
            points: 12_544,
            oversample: 3.0,
            importance: 0.75,
            class_weight: 2.0,
            mask_weight: 5.0,
            dice_weight: 5.0,
            no_object: 0.1,
        },
        data: Data {
            root: PathBuf::from("."),
            on_error: OnError::Stop,
            groups: vec![],
            train: vec![],
            eval: vec![],
        },
        augment: Augment {
            crop,
            ratios: (5..=20).map(|k| f64::from(k) / 10.0).collect(),
            max_long_edge: crop.saturating_mul(4),
            cat_max_ratio: 0.75,
            flip: true,
            photometric: true,
        },
        train: train(),
        eval: Eval { mode: EvalMode::Slide, crop, stride: stride(crop), batch: 1 },
        run: Run {
            dir: PathBuf::new(),
            device: "auto".to_owned(),
            precision: Precision::Bf16,
            graphs: true,
            cpu: "auto".to_owned(),
            threads: 0,
            workers: 0,
            check_memory: true,
        },
    }
}

/// Stride of two thirds of a window, rounded: 341 of 512 and 683 of 1024.
pub(super) fn stride(crop: usize) -> usize {
    (crop.saturating_mul(2).saturating_add(1) / 3).max(1)
}

fn model(backbone: &str, crop: usize) -> Model {
    let config = &base(backbone).config;
    Model {
        backbone: backbone.to_owned(),
        weights: PathBuf::new(),
        checkpoint: PathBuf::new(),
        method: Method::Rein,
        precision: Precision::F32,
        embed_dim: config.embed_dim,
        depth: config.depth,
        heads: config.heads,
        ffn: config.ffn.hidden(config.embed_dim, FFN_RATIO),
        ffn_form: config.ffn,
        registers: config.registers,
        patch: 16,
        image: crop,
        taps: config.taps.to_vec(),
    }
}

fn head() -> Head {
    Head {
        classes: CITYSCAPES.iter().map(|class| class.name.to_owned()).collect(),
        width: 256,
        mask_width: 256,
        queries: 100,
        heads: 8,
        encoder_layers: 6,
        encoder_ffn: 1024,
        deform_points: 4,
        decoder_layers: 9,
        decoder_ffn: 2048,
        norm_groups: 32,
    }
}

fn train() -> Train {
    Train {
        steps: 40_000,
        batch: 4,
        lr: 1e-4,
        weight_decay: 0.05,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        power: 0.9,
        lr_min: 0.0,
        warm_up_steps: 0,
        warm_up_start: 1e-6,
        backbone_lr_mult: 1.0,
        recompute: RecomputePolicy::None,
        seed: 42,
        eval_every: 10_000,
        checkpoint_every: 4_000,
        checkpoint_minutes: 10.0,
        keep: 3,
        log_every: 50,
        save_signal: SaveSignal::None,
    }
}

/// A set with default values only.
pub(super) fn set() -> Set {
    Set {
        name: String::new(),
        source: SourceKind::Files,
        images: PathBuf::new(),
        labels: PathBuf::new(),
        image_suffix: ".png".to_owned(),
        label_suffix: ".png".to_owned(),
        id_map: Ids::default(),
        groups: vec![],
        count: 0,
        first: 0,
        size: [256, 128],
        domain: Domain::Day,
    }
}

/// An evaluation set with default values only.
pub(super) fn eval_set(eval: &Eval) -> EvalSet {
    let Eval { crop, stride, .. } = *eval;
    EvalSet { set: set(), test_box: [0, 0], crop, stride, in_mean: true }
}
