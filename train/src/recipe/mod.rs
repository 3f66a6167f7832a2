//! Recipes: all settings of a training run, as TOML.
//!
//! A recipe is resolved in layers: the published GTAV settings at 512 pixels, then a file (or an
//! embedded recipe), then overrides such as `train.lr=6e-5` or `data.eval.0.name=night`. Some
//! defaults follow others: the dimensions come from `model.backbone`; the position table, resize
//! list, longest edge and test windows from `augment.crop`; the token count from `head.queries`;
//! the mask width from `head.width`. [`Recipe::to_toml`] writes every key of the result; reading it
//! back gives the same recipe. It lists the keys that follow others in `derived`, so that they
//! still do. The error for an unknown key names the nearest known one; that for a wrong type names
//! the key.
//!
//! Paths written in a file are relative to that file, all others to the working directory; a
//! resolved recipe holds absolute ones. Image and label folders are relative to `data.root`.
//!
//! Refused: inheriting from another recipe file. The defaults already are the published settings,
//! so recipes stay short, and all settings of a run are in one place.

mod adapters;
mod bearing;
mod catalogue;
mod changes;
mod check;
mod defaults;
mod embedded;
mod error;
mod extends;
mod follow;
pub mod keys;
mod overrides;
mod resolve;
mod sets;
#[cfg(test)]
mod tests;
mod train;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use dressage_models::Precision;
use dressage_models::backbone::{Ffn, Stem};
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::groups::{Method, ParamGroups};
use crate::schedule::{Schedule, ScheduleError};

pub use adapters::{AdaptFormer, Lora, RecycleLora, Rein, Soma, Vpt};
pub use bearing::Bearing;
pub(crate) use changes::changed_settings;
pub use changes::{Change, changes, settings};
pub(crate) use defaults::base;
pub use embedded::{EMBEDDED, Embedded, GROUPS};
pub use error::RecipeError;
pub use overrides::{Command, acting};
pub use sets::{Data, EvalSet, OnError, Set, SourceKind};
pub use train::{Ema, SaveSignal, Train};

/// Value of `model.weights` that means random initial weights.
pub const RANDOM: &str = "random";

/// A resolved recipe. Field names are key names; [`keys::KEYS`] says what each means and takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the recipe, also of its run folder.
    pub name: String,
    /// One line on what it trains.
    pub about: String,
    /// Unset keys whose values follow other keys, sorted. When the recipe is read back, they still
    /// follow overrides of those keys.
    pub derived: Vec<String>,
    /// Backbone and method.
    pub model: Model,
    /// Rein; only read when `model.method` is `rein`.
    pub rein: Rein,
    /// LoRA; only read when `model.method` is `lora`.
    pub lora: Lora,
    /// AdaptFormer; only read when `model.method` is `adaptformer`.
    pub adaptformer: AdaptFormer,
    /// VPT-deep; only read when `model.method` is `vpt`.
    pub vpt: Vpt,
    /// SoMA; only read when `model.method` is `soma`.
    pub soma: Soma,
    /// RecycleLoRA; only read when `model.method` is `recycle-lora`.
    #[serde(rename = "recycle-lora")]
    pub recycle_lora: RecycleLora,
    /// Head and its classes.
    pub head: Head,
    /// Losses of Mask2Former: weights of the terms, and the points at which the terms are computed.
    pub loss: Loss,
    /// Images and labels.
    pub data: Data,
    /// Augmentation of a training sample.
    pub augment: Augment,
    /// Optimiser, schedule, intervals.
    pub train: Train,
    /// Inference.
    pub eval: Eval,
    /// Place and resources of the run.
    pub run: Run,
}

/// The backbone (spec backbones §1.1, §4.6, §4.7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name of a published backbone, or `custom` (starts from the dimensions of the smallest).
    pub backbone: String,
    /// Checkpoint of the backbone's authors, or [`RANDOM`].
    pub weights: PathBuf,
    /// Trained adapter and head to start from, under the reference's names. The backbone is used
    /// too if it is in the file. Empty to start from initial values.
    pub checkpoint: PathBuf,
    /// Method that adapts the backbone.
    pub method: Method,
    /// Whether predictions add the adapter to the weights of the backbone, which saves time.
    pub merge_adapter: bool,
    /// Storage precision of frozen matrices.
    pub precision: Precision,
    /// Channels c.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Blocks of each stage of a ResNet or ConvNeXt, whose first stage has c channels and each other
    /// one twice those of the one before. Empty for a ViT.
    pub stages: Vec<usize>,
    /// First layers of a ResNet: `deep` (V1c) or `single` (one 7x7 convolution).
    pub stem: Stem,
    /// Whether the last two stages of a ResNet dilate their kernels instead of halving the map.
    pub dilated: bool,
    /// Whether a ResNet that trains keeps the running statistics of its weights and normalises by
    /// them. A frozen one always does.
    pub frozen_statistics: bool,
    /// Attention heads; they must divide c.
    pub heads: usize,
    /// Hidden width of a block's MLP, or of one branch of a SwiGLU.
    pub ffn: usize,
    /// Form of the MLP: `mlp` (GELU between two layers), `quick-gelu` (CLIP), `swiglu` (DINOv2-g,
    /// DINOv3) or `normed-swiglu` (EVA-02).
    pub ffn_form: Ffn,
    /// Register tokens of the backbone: 4 in DINOv3 and in the variants of DINOv2 that have them.
    pub registers: usize,
    /// Patch side in pixels; weights of another patch size are resized on load.
    pub patch: usize,
    /// Side in pixels of the square image that the position table is made for: `(image / patch)^2`
    /// positions.
    pub image: usize,
    /// Whether the maps go through the final norm of the backbone.
    pub tap_norm: bool,
    /// Blocks (from 0) after which the four feature maps are taken.
    pub taps: Vec<usize>,
    /// Rate of stochastic depth at the last block, to which it rises from 0 at the first.
    pub drop_path: f64,
    /// Whether CLIP's class embedding is added at its position too, as the reference does.
    pub double_class_token: bool,
}

/// Head and loss of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// Mask2Former with the deformable pixel decoder (spec mask2former §2, §3).
    Mask2former,
    /// A 1x1 convolution on the concatenated taps, and cross-entropy of every pixel.
    PerPixel,
    /// The semantic FPN: a neck, a head with batch norm, and cross-entropy of every pixel (spec
    /// mask2former §6).
    Semfpn,
    /// Two transposed convolutions.
    Deconv,
}

/// The head. All keys but `kind`, `classes`, `width`, `fpn_width` and `dropout` are sizes of
/// Mask2Former alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Head and loss.
    pub kind: HeadKind,
    /// Names of the classes, in the order of their indices; their number is K.
    pub classes: Vec<String>,
    /// Channels of maps and queries, and of the semantic FPN's neck.
    pub width: usize,
    /// Channels of the semantic FPN's head.
    pub fpn_width: usize,
    /// Share of its channels that training leaves out.
    pub dropout: f64,
    /// Channels of mask and pixel embeddings, `out_channels` in the reference; `width` by default.
    pub mask_width: usize,
    /// Queries.
    pub queries: usize,
    /// Attention heads of both decoders.
    pub heads: usize,
    /// Layers of the pixel decoder's encoder.
    pub encoder_layers: usize,
    /// Hidden width of its feed-forward part.
    pub encoder_ffn: usize,
    /// Sampled points per head and level.
    pub deform_points: usize,
    /// Layers of the transformer decoder.
    pub decoder_layers: usize,
    /// Hidden width of its feed-forward part.
    pub decoder_ffn: usize,
    /// Groups of the group norms.
    pub norm_groups: usize,
}

/// Matching and losses (spec mask2former §4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Points per mask, for matching and losses.
    pub points: usize,
    /// Candidates per point, from which the most uncertain are chosen.
    pub oversample: f64,
    /// Share of the points chosen by uncertainty; the rest is uniform.
    pub importance: f64,
    /// Weight of the class term.
    pub class_weight: f64,
    /// Weight of the mask term.
    pub mask_weight: f64,
    /// Weight of the dice term.
    pub dice_weight: f64,
    /// Weight of the class "no object" within the class term.
    pub no_object: f64,
}

/// Augmentation of a training sample (spec training-and-data §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// Side of the square crop in pixels.
    pub crop: usize,
    /// Shortest edges to resize to, as multiples of `crop` rounded down; empty leaves the size as
    /// it is.
    pub ratios: Vec<f64>,
    /// Longest edge in pixels after the resize.
    pub max_long_edge: usize,
    /// Class share from which a crop is drawn again, up to ten times; 1 or more accepts the first
    /// crop.
    pub cat_max_ratio: f64,
    /// Whether half of the samples are mirrored.
    pub flip: bool,
    /// Whether brightness, contrast, saturation and hue are distorted.
    pub photometric: bool,
}

/// Inference (spec mask2former §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Sliding windows or the whole image at once.
    pub mode: EvalMode,
    /// Side of the window for sets that set none.
    pub crop: usize,
    /// Step of the window for sets that set none.
    pub stride: usize,
    /// Windows per forward pass.
    pub batch: usize,
    /// Whether the averaged weights of a run are scored and used, not the weights.
    pub averaged: bool,
}

/// Values of [`Eval::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvalMode {
    /// Overlapping windows, averaged.
    #[default]
    Slide,
    /// One window, the image padded to a multiple of the patch.
    Whole,
}

/// Place and resources of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Run folder.
    pub dir: PathBuf,
    /// Host or device that runs the work ([`crate::place::DeviceChoice`]).
    pub device: String,
    /// Storage precision of activations and matrices on a device. Trained weights and moments are
    /// also kept in f32. The host ignores it and computes in f32.
    pub precision: Precision,
    /// Whether a device runs the step as two captured CUDA graphs instead of launch by launch. The
    /// result does not depend on it. The host ignores it.
    pub graphs: bool,
    /// Code path of the CPU ([`dressage_kernels::cpu::simd::Choice`]).
    pub cpu: String,
    /// Threads for arithmetic; 0 takes one per core. The result does not depend on it.
    pub threads: usize,
    /// Threads that prepare samples; 0 chooses for the machine when a run starts
    /// ([`LoaderSettings::workers_for`](crate::data::LoaderSettings::workers_for)). The run's own
    /// recipe records the number. The result does not depend on it.
    pub workers: usize,
    /// Whether a run that does not fit into the machine's memory is refused.
    pub check_memory: bool,
}

impl Recipe {
    /// Reads a recipe file and applies `overrides`, each `key.sub=value`.
    ///
    /// # Errors
    /// An unreadable file, invalid TOML, an unknown key, a wrong type, a value out of range.
    pub fn from_file(path: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let text =
            read(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::from_text(path, &text, overrides)
    }

    /// Parses `text` as the content of the file `path` and applies `overrides`.
    ///
    /// # Errors
    /// As [`Recipe::from_file`], except for reading the file.
    pub fn from_text(path: &Path, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let origin = path.display().to_string();
        resolve::resolve(&stem.unwrap_or_default(), &origin, dir, text, overrides)
    }

    /// Loads an embedded recipe and applies `overrides`.
    ///
    /// # Errors
    /// An unknown name (the nearest known one is named); otherwise as [`Recipe::from_file`].
    pub fn from_name(name: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let text = embedded::text(name).ok_or_else(|| RecipeError::unknown_recipe(name))?;
        let origin = format!("recipe {name}");
        resolve::resolve(name, &origin, Path::new(""), text, overrides)
    }

    /// Loads the embedded recipe `what` if there is one, else the file `what`. A word that is
    /// neither and does not look like a path is treated as a misspelt name.
    ///
    /// # Errors
    /// As [`Recipe::from_file`] and [`Recipe::from_name`].
    pub fn find(what: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let path = Path::new(what);
        let like_a_path = path.exists() || path.extension().is_some() || what.contains('/');
        if embedded::text(what).is_some() || !like_a_path {
            Self::from_name(what, overrides)
        } else {
            Self::from_file(path, overrides)
        }
    }

    /// The whole recipe as TOML, every key with its value.
    ///
    /// # Errors
    /// [`RecipeError::Syntax`] when a path is not Unicode.
    pub fn to_toml(&self) -> Result<String, RecipeError> {
        toml::to_string(self).map_err(|error| RecipeError::Syntax {
            origin: format!("recipe {}", self.name),
            what: error.to_string(),
        })
    }

    /// Schedule of the learning rate over the steps.
    ///
    /// # Errors
    /// As [`Schedule::poly`]; a resolved recipe has passed this.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        let t = &self.train;
        Schedule::poly(t.lr, t.steps, t.power, t.lr_min, t.warm_up_steps, t.warm_up_start)
    }

    /// Schedule of the weight decay over the steps.
    ///
    /// # Errors
    /// As [`Schedule::cosine`]; a resolved recipe has passed this.
    pub fn decay_schedule(&self) -> Result<Schedule, ScheduleError> {
        let t = &self.train;
        Schedule::cosine(t.weight_decay, t.steps, t.weight_decay_end)
    }

    /// Parameter groups: learning rate and weight decay of each tensor.
    pub fn groups(&self) -> ParamGroups {
        let groups = ParamGroups::of(self.model.method);
        match self.model.method {
            Method::Full => groups.with_backbone_lr_mult(self.train.backbone_lr_mult),
            method => {
                let groups = match method {
                    Method::RecycleLora => {
                        groups.with_second_lr_mult(self.recycle_lora.second_lr_mult)
                    }
                    _ => groups,
                };
                groups.with_adapter_lr_mult(self.train.adapter_lr_mult)
            }
        }
    }

    /// Images per update.
    pub fn images_per_step(&self) -> usize {
        self.train.batch * self.train.accumulate
    }

    /// Number of classes K.
    pub fn classes(&self) -> usize {
        self.head.classes.len()
    }

    /// The weights file, or `None` for random initial weights.
    pub fn weights(&self) -> Option<&Path> {
        let weights = self.model.weights.as_path();
        (weights != Path::new(RANDOM)).then_some(weights)
    }

    /// The file of trained weights to start from, if there is one.
    pub fn checkpoint(&self) -> Option<&Path> {
        let checkpoint = self.model.checkpoint.as_path();
        (checkpoint != Path::new("")).then_some(checkpoint)
    }
}

/// Largest size of a recipe in bytes; one with an id table for each set takes far less.
const LONGEST: u64 = 1 << 20;

/// Reads a file as text, with a size limit: it may be an endless device.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        let what = format!("it holds more than {LONGEST} bytes, so it is not a recipe");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    Ok(text)
}

impl Augment {
    /// The settings as the sample pipeline takes them.
    pub fn pipeline(&self) -> augment::Augment {
        augment::Augment {
            crop_h: self.crop,
            crop_w: self.crop,
            shortest_edges: self.short_edges(),
            max_edge: self.max_long_edge,
            class_cap: self.cat_max_ratio,
            flip: self.flip,
            photometric: self.photometric,
        }
    }

    /// Shortest edges in pixels, one of which a sample is resized to.
    pub(crate) fn short_edges(&self) -> Vec<usize> {
        // The small addend keeps products such as 500 * 0.7 from rounding below the whole number
        // that is meant.
        self.ratios.iter().map(|r| (self.crop as f64 * r + 1e-9) as usize).collect()
    }
}
