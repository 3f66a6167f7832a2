//! Catalogue of recipe keys: type and meaning of each. It decides which keys exist, checks their
//! types and is printed by `dressage train --help-recipe`. The influence of each key, and so where
//! it may change, is in `super::bearing`.

use std::fmt::Write as _;

use toml::Value;

use super::defaults::{BACKBONES, DOMAINS, ID_MAPS};

/// Type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueKind {
    /// Text.
    Text,
    /// A path, relative to the recipe file.
    Path,
    /// A path below `data.root`.
    Folder,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number, 0 or more.
    Count,
    /// A number.
    Real,
    /// A list of texts.
    Texts,
    /// A list of whole numbers.
    Counts,
    /// A list of numbers.
    Reals,
    /// Two whole numbers.
    Pair,
    /// A list of lists of whole numbers.
    Groups,
    /// The name of a table of ids, or a table such as `{ 7 = 0, 8 = 1 }`.
    IdMap,
}

/// A key of a recipe.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted path; `[]` stands for the position in a list of tables.
    pub path: &'static str,
    /// Type of its value.
    pub kind: ValueKind,
    /// Meaning, for the help text.
    pub help: &'static str,
}

const fn key(path: &'static str, kind: ValueKind, help: &'static str) -> Key {
    Key { path, kind, help }
}

const FFNS: &[&str] = &["mlp", "swiglu"];

const LEVELS: &[&str] = &["none", "cheap", "block"];

const PRECISIONS: &[&str] = &["f32", "bf16"];

const SIGNALS: &[&str] = &["none", "usr1", "usr2"];
const CPUS: &[&str] = &["auto", "avx512", "avx2", "portable"];

const HEADS: &[&str] = &["mask2former", "per-pixel"];

const METHODS: &[&str] = &["rein", "freeze", "full"];

/// Every key, in the order in which a recipe is written.
pub const KEYS: &[Key] = &[
    key("name", ValueKind::Text, "name of the recipe, by default that of its file"),
    key("about", ValueKind::Text, "one line on what it trains"),
    key(
        "derived",
        ValueKind::Texts,
        "in the recipe.toml of a run: keys that were not set and follow from others",
    ),
    key("model.backbone", ValueKind::Choice(BACKBONES), "sets the dimensions below"),
    key("model.weights", ValueKind::Path, "checkpoint of the backbone's authors, or `random`"),
    key(
        "model.checkpoint",
        ValueKind::Path,
        "trained Rein and head to start from, such as a released checkpoint; none by default",
    ),
    key(
        "model.method",
        ValueKind::Choice(METHODS),
        "what trains: Rein and head, the head, everything",
    ),
    key("model.precision", ValueKind::Choice(PRECISIONS), "how frozen matrices are stored"),
    key("model.embed_dim", ValueKind::Count, "channels"),
    key("model.depth", ValueKind::Count, "blocks"),
    key("model.heads", ValueKind::Count, "attention heads"),
    key("model.ffn", ValueKind::Count, "hidden width of a block's MLP, of one branch of a SwiGLU"),
    key("model.ffn_form", ValueKind::Choice(FFNS), "GELU between two layers, or a SwiGLU"),
    key("model.registers", ValueKind::Count, "register tokens, 4 in weights that have them"),
    key("model.patch", ValueKind::Count, "patch side in pixels"),
    key(
        "model.image",
        ValueKind::Count,
        "image side in pixels that the position table is made for",
    ),
    key("model.taps", ValueKind::Counts, "the four blocks, from 0, after which maps are taken"),
    key("rein.tokens", ValueKind::Count, "tokens per layer; equals head.queries when linked"),
    key("rein.rank", ValueKind::Count, "rank of the tokens' factors, 0 for whole tokens"),
    key(
        "rein.link",
        ValueKind::Flag,
        "make the head's queries from the tokens, by default if it is a Mask2Former",
    ),
    key("rein.softmax", ValueKind::Flag, "softmax over the tokens"),
    key(
        "rein.zero_mlp_delta_f",
        ValueKind::Flag,
        "last MLP starts at zero, scale is the constant 1",
    ),
    key("head.kind", ValueKind::Choice(HEADS), "Mask2Former, or a 1x1 convolution on the taps"),
    key("head.classes", ValueKind::Texts, "class names in the order of their indices"),
    key("head.width", ValueKind::Count, "channels of maps and queries"),
    key("head.mask_width", ValueKind::Count, "channels of mask embeddings, by default head.width"),
    key("head.queries", ValueKind::Count, "queries"),
    key("head.heads", ValueKind::Count, "attention heads"),
    key("head.encoder_layers", ValueKind::Count, "layers of the pixel decoder's encoder"),
    key("head.encoder_ffn", ValueKind::Count, "hidden width of the encoder's feed-forward part"),
    key("head.deform_points", ValueKind::Count, "sampled points per head and level"),
    key("head.decoder_layers", ValueKind::Count, "layers of the transformer decoder"),
    key("head.decoder_ffn", ValueKind::Count, "hidden width of the decoder's feed-forward part"),
    key("head.norm_groups", ValueKind::Count, "groups of the group norms"),
    key("loss.points", ValueKind::Count, "points per mask for matching and losses"),
    key(
        "loss.oversample",
        ValueKind::Real,
        "candidates per point in the search for uncertain ones",
    ),
    key("loss.importance", ValueKind::Real, "share of the points chosen by uncertainty"),
    key("loss.class_weight", ValueKind::Real, "weight of the class term"),
    key("loss.mask_weight", ValueKind::Real, "weight of the mask term"),
    key("loss.dice_weight", ValueKind::Real, "weight of the dice term"),
    key("loss.no_object", ValueKind::Real, "weight of `no object` within the class term"),
    key(
        "data.root",
        ValueKind::Path,
        "folder that images and labels are relative to, by default the recipe's",
    ),
    key(
        "data.on_error",
        ValueKind::Choice(&["stop", "skip"]),
        "where a picture or label cannot be used: stop before the first step, or leave it out",
    ),
    key(
        "data.groups",
        ValueKind::Groups,
        "label ids of each class, others ignored; empty: id = class",
    ),
    key("data.train[].name", ValueKind::Text, "name in logs"),
    key("data.train[].source", ValueKind::Choice(SOURCES), "read files or draw scenes"),
    key("data.train[].images", ValueKind::Folder, "folder of the images, searched recursively"),
    key("data.train[].labels", ValueKind::Folder, "folder of the labels, of the same layout"),
    key("data.train[].image_suffix", ValueKind::Text, "how image names end"),
    key("data.train[].label_suffix", ValueKind::Text, "what label names have in its place"),
    key("data.train[].id_map", ValueKind::IdMap, "from label values to train ids"),
    key("data.train[].groups", ValueKind::Groups, "as data.groups, for this set"),
    key("data.train[].count", ValueKind::Count, "scenes to draw"),
    key("data.train[].first", ValueKind::Count, "number of the first scene"),
    key("data.train[].size", ValueKind::Pair, "[width, height] of a drawn scene"),
    key("data.train[].domain", ValueKind::Choice(DOMAINS), "look of the drawn scenes"),
    key("data.eval[].name", ValueKind::Text, "name in tables"),
    key("data.eval[].source", ValueKind::Choice(SOURCES), "read files or draw scenes"),
    key("data.eval[].images", ValueKind::Folder, "folder of the images, searched recursively"),
    key("data.eval[].labels", ValueKind::Folder, "folder of the labels, of the same layout"),
    key("data.eval[].image_suffix", ValueKind::Text, "how image names end"),
    key("data.eval[].label_suffix", ValueKind::Text, "what label names have in its place"),
    key("data.eval[].id_map", ValueKind::IdMap, "from label values to train ids"),
    key("data.eval[].groups", ValueKind::Groups, "as data.groups, for this set"),
    key("data.eval[].count", ValueKind::Count, "scenes to draw"),
    key("data.eval[].first", ValueKind::Count, "number of the first scene"),
    key("data.eval[].size", ValueKind::Pair, "[width, height] of a drawn scene"),
    key("data.eval[].domain", ValueKind::Choice(DOMAINS), "look of the drawn scenes"),
    key(
        "data.eval[].box",
        ValueKind::Pair,
        "[width, height] that images are fitted into; [0, 0]: as is",
    ),
    key("data.eval[].crop", ValueKind::Count, "side of the sliding window, by default eval.crop"),
    key(
        "data.eval[].stride",
        ValueKind::Count,
        "step of the window, by default eval.stride or 2/3 of its own crop",
    ),
    key("data.eval[].in_mean", ValueKind::Flag, "whether the mean over sets counts it"),
    key("augment.crop", ValueKind::Count, "side of the square crop in pixels"),
    key("augment.ratios", ValueKind::Reals, "shortest edges to resize to, as multiples of crop"),
    key("augment.max_long_edge", ValueKind::Count, "longest edge after the resize"),
    key(
        "augment.cat_max_ratio",
        ValueKind::Real,
        "draw a crop again if one class has more than this share, 1: never",
    ),
    key("augment.flip", ValueKind::Flag, "mirror half of the samples"),
    key("augment.photometric", ValueKind::Flag, "distort brightness, contrast, saturation, hue"),
    key("train.steps", ValueKind::Count, "steps"),
    key("train.batch", ValueKind::Count, "images per step"),
    key("train.lr", ValueKind::Real, "learning rate before the schedule"),
    key("train.weight_decay", ValueKind::Real, "decay of AdamW"),
    key("train.beta1", ValueKind::Real, "factor of AdamW's first moment"),
    key("train.beta2", ValueKind::Real, "factor of AdamW's second moment"),
    key("train.eps", ValueKind::Real, "added to the root of the second moment"),
    key("train.power", ValueKind::Real, "exponent of the decay of the learning rate"),
    key("train.lr_min", ValueKind::Real, "learning rate at the last step"),
    key("train.warm_up_steps", ValueKind::Count, "steps of linear warm-up"),
    key("train.warm_up_start", ValueKind::Real, "factor at the first step of the warm-up"),
    key(
        "train.backbone_lr_mult",
        ValueKind::Real,
        "rate of backbone weights when the method is full",
    ),
    key(
        "train.recompute",
        ValueKind::Choice(LEVELS),
        "less memory for more time, to the same bits",
    ),
    key("train.seed", ValueKind::Count, "seed of every random number"),
    key("train.eval_every", ValueKind::Count, "steps between evaluations, 0: only at the end"),
    key("train.checkpoint_every", ValueKind::Count, "steps between checkpoints, 0: only the last"),
    key(
        "train.checkpoint_minutes",
        ValueKind::Real,
        "minutes between extra checkpoints, each replaces the one before; 0: none",
    ),
    key("train.keep", ValueKind::Count, "checkpoints kept"),
    key("train.log_every", ValueKind::Count, "steps between log lines"),
    key(
        "train.save_signal",
        ValueKind::Choice(SIGNALS),
        "another signal that saves and ends, as SIGINT, SIGTERM and SIGHUP do",
    ),
    key("eval.mode", ValueKind::Choice(&["slide", "whole"]), "sliding windows or the whole image"),
    key("eval.crop", ValueKind::Count, "side of the window for sets that name none"),
    key(
        "eval.stride",
        ValueKind::Count,
        "step of the window for sets that name none, by default 2/3 of it",
    ),
    key("eval.batch", ValueKind::Count, "windows computed together"),
    key("run.dir", ValueKind::Path, "run folder, by default runs/NAME"),
    key(
        "run.device",
        ValueKind::Text,
        "auto (a GPU if it can be used, else the CPU), cpu, cuda, cuda:N or virtual (for checks)",
    ),
    key(
        "run.precision",
        ValueKind::Choice(PRECISIONS),
        "how activations and matrices are stored on a device; trained weights stay in f32 too",
    ),
    key("run.graphs", ValueKind::Flag, "queue the steps of a device as captured graphs"),
    key(
        "run.cpu",
        ValueKind::Choice(CPUS),
        "code of the CPU: the fastest, or one whose bits are the same on every CPU that has it",
    ),
    key("run.threads", ValueKind::Count, "threads for arithmetic, 0: one per core"),
    key(
        "run.workers",
        ValueKind::Count,
        "threads that prepare samples, 0: 2 for the CPU, for a GPU all cores but one, up to 16",
    ),
    key("run.check_memory", ValueKind::Flag, "do not start a run that would not fit into memory"),
];

const SOURCES: &[&str] = &["files", "scenes"];

/// Finds the key of this path, with `[]` for positions.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

impl ValueKind {
    /// Describes the values that the key takes.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Path | Self::Folder => "a path".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Flag => "true or false".to_owned(),
            Self::Count => "a whole number, 0 or more".to_owned(),
            Self::Real => "a number".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Counts => "a list of whole numbers, 0 or more".to_owned(),
            Self::Reals => "a list of numbers".to_owned(),
            Self::Pair => "two whole numbers, 0 or more".to_owned(),
            Self::Groups => "a list of lists of whole numbers, 0 or more".to_owned(),
            Self::IdMap => {
                format!("one of {}, or a table {{ value = train id }}", ID_MAPS.join(", "))
            }
        }
    }

    /// Whether the value is of this kind.
    pub(super) fn takes(self, value: &Value) -> bool {
        let list = |each: Self| value.as_array().is_some_and(|a| a.iter().all(|v| each.takes(v)));
        match self {
            Self::Text | Self::Path | Self::Folder => value.is_str(),
            Self::Choice(words) => value.as_str().is_some_and(|v| words.contains(&v)),
            Self::Flag => value.is_bool(),
            Self::Count => value.as_integer().is_some_and(|v| v >= 0),
            Self::Real => value.is_float() || value.is_integer(),
            Self::Texts => list(Self::Text),
            Self::Counts => list(Self::Count),
            Self::Reals => list(Self::Real),
            Self::Pair => list(Self::Count) && value.as_array().is_some_and(|a| a.len() == 2),
            Self::Groups => list(Self::Counts),
            Self::IdMap => match value {
                Value::Table(table) => table.iter().all(|(from, to)| {
                    from.parse::<u8>().is_ok()
                        && to.as_integer().is_some_and(|id| (0..=255).contains(&id))
                }),
                _ => Self::Choice(ID_MAPS).takes(value),
            },
        }
    }

    /// Whether a bare word is a text of this kind.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Path | Self::Folder | Self::Choice(_) | Self::IdMap)
    }
}

/// Help text: all keys with their kinds and meanings, by section. Lines are at most `width` columns
/// long where the words allow.
pub fn help(width: usize) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (head, leaf) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if head != section {
            let title = match head.strip_suffix("[]") {
                Some(list) => format!("[[{list}]]"),
                None => format!("[{head}]"),
            };
            let _ = writeln!(text, "\n{title}");
            section = head;
        }
        let words = format!("{}. {}", key.help, key.kind.describe());
        let mut line = format!("  {leaf:<18}");
        for word in words.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > width && !line.trim().is_empty() {
                let _ = writeln!(text, "{}", line.trim_end());
                line = " ".repeat(20);
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
    text
}
