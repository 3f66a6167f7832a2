//! Recipes: everything a training run is told, as TOML.
//!
//! A recipe is resolved in layers: the published GTAV settings at 512 pixels, then a file (or an
//! embedded recipe), then overrides such as `train.lr=6e-5` or `data.eval.0.name=night`. Some
//! defaults follow others: the dimensions come from `model.backbone`; the position table, resize
//! list, longest edge and test windows from `augment.crop`; the token count from `head.queries`;
//! the mask width from `head.width`. Every key of the result is written out by
//! [`Recipe::to_toml`], which gives the same recipe when read again, and names those that follow
//! others (`derived`), so that they still do. An unknown key is refused with the nearest known one,
//! a wrong type with its name.
//!
//! Paths written in a file are relative to that file, all others to the working directory; a
//! resolved recipe holds absolute ones. Image and label folders are relative to `data.root`.
//!
//! Refused: inheriting from another recipe file. The defaults already are the published setting,
//! so recipes stay short, and what a run used stands in one place.

mod bearing;
mod changes;
mod check;
mod defaults;
mod embedded;
mod error;
mod follow;
pub mod keys;
mod overrides;
mod resolve;
mod sets;
#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use dressage_models::Precision;
use dressage_models::backbone::{Ffn, Recompute};
use serde::{Deserialize, Serialize};

use crate::augment;
use crate::groups::{Method, ParamGroups};
use crate::schedule::{Schedule, ScheduleError};

pub use bearing::Bearing;
pub use changes::{Change, changed_settings, changes, settings};
pub use embedded::{EMBEDDED, Embedded};
pub use error::RecipeError;
pub use overrides::{Command, acting};
pub use sets::{Data, EvalSet, OnError, Set, Source};

/// The word that stands for random initial weights in `model.weights`.
pub const RANDOM: &str = "random";

/// A resolved recipe. Field names are key names; [`keys::KEYS`] says what each means and takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the recipe, also of its run folder.
    pub name: String,
    /// One line on what it trains.
    pub about: String,
    /// Keys that nobody set and whose values follow others, sorted. Read back with the other keys,
    /// they follow an override of those again.
    pub derived: Vec<String>,
    /// Backbone and method.
    pub model: Model,
    /// Rein; only read when `model.method` is `rein`.
    pub rein: Rein,
    /// Mask2Former.
    pub head: Head,
    /// Weights of the loss terms and the points they are taken at.
    pub loss: Loss,
    /// Images and labels.
    pub data: Data,
    /// What is done to a training sample.
    pub augment: Augment,
    /// Optimiser, schedule, intervals.
    pub train: Train,
    /// Inference.
    pub eval: Eval,
    /// Where and how the run is carried out.
    pub run: Run,
}

/// The backbone, a plain ViT with layer scale in DINOv2's form (spec backbones §1.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `dinov2-s`, `dinov2-b`, `dinov2-l`, `dinov2-g`, or `custom` (starts from the dimensions of
    /// `dinov2-s`).
    pub backbone: String,
    /// Checkpoint of the backbone's authors, or [`RANDOM`].
    pub weights: PathBuf,
    /// Trained adapter and head to start from (and the backbone, if it is in the file), under the
    /// reference's names; empty to start from initial values.
    pub checkpoint: PathBuf,
    /// How it is adapted.
    pub method: Method,
    /// How frozen matrices are stored.
    pub precision: Precision,
    /// Channels c.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads; c must be a multiple.
    pub heads: usize,
    /// Hidden width of a block's MLP, of one branch of a SwiGLU.
    pub ffn: usize,
    /// Form of the MLP: `mlp` (GELU between two layers) or `swiglu` (DINOv2-g).
    pub ffn_form: Ffn,
    /// Register tokens of the backbone: 4 in the published variants that have them.
    pub registers: usize,
    /// Patch side in pixels; weights of another patch size are resized on load.
    pub patch: usize,
    /// Side in pixels of the square image that the position table is made for: `(image / patch)^2`
    /// positions.
    pub image: usize,
    /// Blocks (from 0) after which the four maps are taken.
    pub taps: Vec<usize>,
}

/// Rein (spec backbones §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rein {
    /// Tokens m per layer; equals `head.queries` when `link` is on.
    pub tokens: usize,
    /// Rank r of the tokens' factors; 0 keeps them whole.
    pub rank: usize,
    /// Make the head's queries from the tokens.
    pub link: bool,
    /// Softmax over the tokens in the attention of features to tokens.
    pub softmax: bool,
    /// The paper's literal form: `mlp_delta_f` starts at zero and `scale` is the constant 1.
    pub zero_mlp_delta_f: bool,
}

/// Mask2Former with the deformable pixel decoder (spec mask2former §2, §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Names of the classes, in the order of their indices; their number is K.
    pub classes: Vec<String>,
    /// Channels of maps and queries.
    pub width: usize,
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
    /// Candidates per point among which the most uncertain are looked for.
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

/// What is done to a training sample (spec training-and-data §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Augment {
    /// Side of the square crop in pixels.
    pub crop: usize,
    /// Shortest edges to resize to, as multiples of `crop` rounded down; empty leaves the size as
    /// it is.
    pub ratios: Vec<f64>,
    /// Longest edge in pixels after the resize.
    pub max_long_edge: usize,
    /// Crops in which one class has this share or more are drawn again, up to ten times; 1 or more
    /// takes the first.
    pub cat_max_ratio: f64,
    /// Mirror half of the samples.
    pub flip: bool,
    /// Distort brightness, contrast, saturation and hue.
    pub photometric: bool,
}

/// Optimiser, schedule and intervals (spec training-and-data §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Steps.
    pub steps: u64,
    /// Images per step.
    pub batch: usize,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Decay of AdamW.
    pub weight_decay: f64,
    /// First moment's factor.
    pub beta1: f64,
    /// Second moment's factor.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Exponent of the decay.
    pub power: f64,
    /// Rate at the last step.
    pub lr_min: f64,
    /// Steps of linear warm-up.
    pub warm_up_steps: u64,
    /// Factor at the first step of the warm-up.
    pub warm_up_start: f64,
    /// Factor for the backbone's own weights when `model.method` is `full`.
    pub backbone_lr_mult: f64,
    /// What the forward pass keeps for the backward pass; the result does not depend on it.
    pub recompute: Recompute,
    /// Seed of every random number of the run.
    pub seed: u64,
    /// Steps between evaluations; 0 evaluates only at the end.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 writes only the last.
    pub checkpoint_every: u64,
    /// Minutes after which one more checkpoint is written, which the next one replaces; 0 writes
    /// none. The result does not depend on it.
    pub checkpoint_minutes: f64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between log lines.
    pub log_every: u64,
    /// A signal that saves and ends besides those that always do.
    pub save_signal: SaveSignal,
}

/// See [`Train::save_signal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveSignal {
    /// None.
    #[default]
    None,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

/// Inference (spec mask2former §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Sliding windows or the whole image at once.
    pub mode: EvalMode,
    /// Side of the window for sets that name none.
    pub crop: usize,
    /// Step of the window for sets that name none.
    pub stride: usize,
    /// Windows computed together.
    pub batch: usize,
}

/// See [`Eval::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvalMode {
    /// Overlapping windows, averaged.
    #[default]
    Slide,
    /// One window, the image padded to a multiple of the patch.
    Whole,
}

/// Where and how the run is carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Run folder.
    pub dir: PathBuf,
    /// Where the work is done ([`crate::place::DeviceChoice`]).
    pub device: String,
    /// How activations and matrices are stored on a device; trained weights and moments are f32
    /// besides. Nothing to the host, which computes in f32.
    pub precision: Precision,
    /// Queue the step of a device as two captured graphs instead of launch by launch. The result
    /// does not depend on it. Nothing to the host.
    pub graphs: bool,
    /// Code that the CPU runs ([`dressage_kernels::simd::Choice`]).
    pub cpu: String,
    /// Threads for arithmetic; 0 takes one per core. The result does not depend on it.
    pub threads: usize,
    /// Threads that prepare samples; 0 chooses by the machine when a run starts
    /// ([`LoaderSettings::workers_for`](crate::data::LoaderSettings::workers_for)), and the run's
    /// own recipe has the number. The result does not depend on it.
    pub workers: usize,
    /// Do not start what would not fit into the memory of the machine.
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

    /// Takes `text` for what the file `path` holds, and applies `overrides`.
    ///
    /// # Errors
    /// As [`Recipe::from_file`], but for reading the file.
    pub fn from_text(path: &Path, text: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let origin = path.display().to_string();
        resolve::resolve(&stem.unwrap_or_default(), &origin, dir, text, overrides)
    }

    /// Takes an embedded recipe and applies `overrides`.
    ///
    /// # Errors
    /// An unknown name (the nearest known one is named); otherwise as [`Recipe::from_file`].
    pub fn from_name(name: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let found = EMBEDDED.iter().find(|recipe| recipe.name == name);
        let recipe = found.ok_or_else(|| RecipeError::unknown_recipe(name))?;
        let origin = format!("recipe {name}");
        resolve::resolve(name, &origin, Path::new(""), recipe.text, overrides)
    }

    /// An embedded recipe if `what` is the name of one, else the file `what`. A word that is
    /// neither and does not look like a path is taken for a misspelt name.
    ///
    /// # Errors
    /// As [`Recipe::from_file`] and [`Recipe::from_name`].
    pub fn find(what: &str, overrides: &[String]) -> Result<Self, RecipeError> {
        let path = Path::new(what);
        let like_a_path = path.exists() || path.extension().is_some() || what.contains('/');
        if EMBEDDED.iter().any(|recipe| recipe.name == what) || !like_a_path {
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

    /// The learning rate over the steps.
    ///
    /// # Errors
    /// As [`Schedule::poly`]; a resolved recipe has passed this.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        let t = &self.train;
        Schedule::poly(t.lr, t.steps, t.power, t.lr_min, t.warm_up_steps, t.warm_up_start)
    }

    /// Which tensors learn how fast and which decay.
    pub fn groups(&self) -> ParamGroups {
        let groups = ParamGroups::of(self.model.method);
        match self.model.method {
            Method::Full => groups.with_backbone_lr_mult(self.train.backbone_lr_mult),
            Method::Rein | Method::Freeze => groups,
        }
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

/// Bytes that a recipe may have: far more than one with a table of ids for each set takes.
const LONGEST: u64 = 1 << 20;

/// The text of a file that may be anything, such as a device without an end.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        let what = format!("it holds more than {LONGEST} bytes, so it is no recipe");
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

    /// Shortest edges in pixels that a sample is resized to one of.
    pub fn short_edges(&self) -> Vec<usize> {
        // The small addend keeps products such as 500 * 0.7 from falling below the whole number
        // they stand for.
        self.ratios.iter().map(|r| (self.crop as f64 * r + 1e-9) as usize).collect()
    }
}
