//! Rows of all recipe keys: kind, default, meaning and range.

use super::defaults::{BACKBONES, DOMAINS};
use super::keys::ValueKind::{
    Choice, Count, Counts, Flag, Folder, Groups, IdMap, Pair, Path, Real, Reals, Text, Texts,
};
use super::keys::{FOLLOWS, Key, Range, key};

/// Every key, in the order in which a recipe is written.
///
/// Upper bounds of sizes are far beyond any network. A mistyped digit is reported there, not as a
/// size that overflows or that no address space has room for.
pub const KEYS: &[Key] = &[
    key("name", Text, "''", "name of the recipe, by default that of its file"),
    key("about", Text, "''", "one line on what it trains"),
    key(
        "derived",
        Texts,
        "[]",
        "in the recipe.toml of a run: keys that were not set and follow from others",
    ),
    key("model.backbone", Choice(BACKBONES), "'dinov2-l'", "sets the dimensions below"),
    key("model.weights", Path, "''", "checkpoint of the backbone's authors, or `random`"),
    key(
        "model.checkpoint",
        Path,
        "''",
        "trained Rein and head to start from, such as a released checkpoint; none by default",
    ),
    key(
        "model.method",
        Choice(METHODS),
        "'rein'",
        "what trains: an adapter and the head, the head, everything",
    ),
    key(
        "model.merge_adapter",
        Flag,
        "false",
        "add low-rank factors to the backbone's weights for prediction",
    ),
    key("model.precision", Choice(PRECISIONS), "'f32'", "how frozen matrices are stored"),
    key("model.embed_dim", Count, FOLLOWS, "channels").within(1, 1 << 14),
    key("model.depth", Count, FOLLOWS, "blocks").within(1, 1024),
    key(
        "model.stages",
        Counts,
        FOLLOWS,
        "blocks of each stage of a ResNet or ConvNeXt, the first with model.embed_dim channels",
    ),
    key("model.stem", Choice(STEMS), "'deep'", "a ResNet's stem: V1c, or one 7x7 convolution"),
    key("model.dilated", Flag, "false", "a ResNet's last two stages dilate, and halve no map"),
    key(
        "model.frozen_statistics",
        Flag,
        "false",
        "a ResNet that trains normalises by the statistics of its weights",
    ),
    key("model.heads", Count, FOLLOWS, "attention heads").from(1),
    key("model.ffn", Count, FOLLOWS, "hidden width of a block's MLP, of one branch of a SwiGLU")
        .within(1, 1 << 20),
    key("model.ffn_form", Choice(FFNS), FOLLOWS, "what is between the layers of an MLP"),
    key("model.registers", Count, FOLLOWS, "register tokens, 4 in weights that have them")
        .up_to(1024),
    key("model.patch", Count, "16", "patch side in pixels").within(1, 1 << 14),
    key("model.image", Count, FOLLOWS, "image side in pixels that the position table is made for")
        .within(1, 1 << 14),
    key("model.tap_norm", Flag, FOLLOWS, "put the maps through the final norm, as for DINOv3"),
    key("model.taps", Counts, FOLLOWS, "the four blocks, from 0, after which maps are taken"),
    key("model.drop_path", Real, "0.0", "stochastic depth at the last block, with method full")
        .range(Range::Between(0.0, 0.99)),
    key("model.double_class_token", Flag, "true", "CLIP's class embedding twice, as the reference"),
    // The first token only absorbs softmax mass, so one token alone would refine nothing.
    key("rein.tokens", Count, FOLLOWS, "tokens per layer; equals head.queries when linked")
        .within(2, 1 << 14),
    key("rein.rank", Count, "16", "rank of the tokens' factors, 0 for whole tokens").up_to(1 << 14),
    key(
        "rein.link",
        Flag,
        FOLLOWS,
        "make the head's queries from the tokens, by default if it is a Mask2Former",
    ),
    key("rein.share", Flag, "true", "one set of MLPs for all layers"),
    key("rein.softmax", Flag, "true", "softmax over the tokens"),
    key("rein.zero_mlp_delta_f", Flag, "false", "last MLP starts at zero, scale is the constant 1"),
    key("lora.rank", Count, "8", "rank of LoRA's factors").within(1, 1 << 14),
    key("lora.alpha", Real, FOLLOWS, "LoRA's addition is scaled by alpha / rank, by default 1")
        .range(Range::NotNegative),
    key("lora.dropout", Real, "0.001", "share of the factors' input that training drops")
        .range(Range::Between(0.0, 0.99)),
    key("lora.targets", Choice(LORA_TARGETS), "'qv'", "rows of queries, keys, values; all in one"),
    key("adaptformer.bottleneck", Count, "64", "channels of AdaptFormer's bottleneck")
        .within(1, 1 << 14),
    key("adaptformer.scale", Real, "0.1", "factor of AdaptFormer's addition")
        .range(Range::NotNegative),
    key("adaptformer.dropout", Real, "0.1", "share of the bottleneck that training drops")
        .range(Range::Between(0.0, 0.99)),
    key("vpt.prompts", Count, "150", "prompts per block").within(1, 1 << 14),
    key("soma.rank", Count, "16", "rank of SoMA's factors").within(1, 1 << 14),
    key("soma.first_block", Count, FOLLOWS, "first block with SoMA, after a third of the depth")
        .up_to(1 << 14),
    key("recycle-lora.rank", Count, "32", "rank of RecycleLoRA's main branch").within(1, 1 << 14),
    key("recycle-lora.second_rank", Count, "4", "rank of its second branch").within(1, 1 << 14),
    key("recycle-lora.first_block", Count, FOLLOWS, "first block with it, as for SoMA")
        .up_to(1 << 14),
    key("recycle-lora.second_lr_mult", Real, "0.5", "rate of the second branch to the main one's")
        .range(Range::NotNegative),
    key(
        "head.kind",
        Choice(HEADS),
        "'mask2former'",
        "Mask2Former, a 1x1 convolution on the taps, or a semantic FPN",
    ),
    key("head.classes", Texts, FOLLOWS, "class names in the order of their indices"),
    key("head.width", Count, "256", "channels of maps and queries").within(1, 1 << 14),
    key("head.fpn_width", Count, "128", "channels of semfpn's head").within(1, 1 << 14),
    key("head.dropout", Real, "0.1", "share of semfpn's channels that training leaves out")
        .range(Range::Between(0.0, 0.99)),
    key("head.mask_width", Count, FOLLOWS, "channels of mask embeddings, by default head.width")
        .within(1, 1 << 14),
    key("head.queries", Count, "100", "queries").within(1, 1 << 14),
    key("head.heads", Count, "8", "attention heads").from(1),
    key("head.encoder_layers", Count, "6", "layers of the pixel decoder's encoder").up_to(1024),
    key("head.encoder_ffn", Count, "1024", "hidden width of the encoder's feed-forward part")
        .within(1, 1 << 20),
    key("head.deform_points", Count, "4", "sampled points per head and level").within(1, 1024),
    key("head.decoder_layers", Count, "9", "layers of the transformer decoder").up_to(1024),
    key("head.decoder_ffn", Count, "2048", "hidden width of the decoder's feed-forward part")
        .within(1, 1 << 20),
    key("head.norm_groups", Count, "32", "groups of the group norms").from(1),
    key("loss.points", Count, "12544", "points per mask for matching and losses")
        .within(1, 1 << 20),
    key("loss.oversample", Real, "3.0", "candidates per point in the search for uncertain ones")
        .range(Range::Between(1.0, 1024.0)),
    key("loss.importance", Real, "0.75", "share of the points chosen by uncertainty")
        .range(Range::Between(0.0, 1.0)),
    key("loss.class_weight", Real, "2.0", "weight of the class term").range(Range::NotNegative),
    key("loss.mask_weight", Real, "5.0", "weight of the mask term").range(Range::NotNegative),
    key("loss.dice_weight", Real, "5.0", "weight of the dice term").range(Range::NotNegative),
    key("loss.no_object", Real, "0.1", "weight of `no object` within the class term")
        .range(Range::NotNegative),
    key(
        "data.root",
        Path,
        "'.'",
        "folder that images and labels are relative to, by default the recipe's",
    ),
    key(
        "data.on_error",
        Choice(&["stop", "skip"]),
        "'stop'",
        "where a picture or label cannot be used: stop before the first step, or leave it out",
    ),
    key("data.groups", Groups, "[]", "label ids of each class, others ignored; empty: id = class"),
    key("data.train[].name", Text, "''", "name in logs"),
    key("data.train[].source", Choice(SOURCES), "'files'", "read files or draw scenes"),
    key("data.train[].images", Folder, "''", "folder of the images, searched recursively"),
    key("data.train[].labels", Folder, "''", "folder of the labels, of the same layout"),
    key("data.train[].image_suffix", Text, "'.png'", "how image names end"),
    key("data.train[].label_suffix", Text, "'.png'", "what label names have in its place"),
    key("data.train[].id_map", IdMap, "'train_ids'", "from label values to train ids"),
    key("data.train[].groups", Groups, "[]", "as data.groups, for this set"),
    key("data.train[].count", Count, "0", "scenes to draw"),
    key("data.train[].first", Count, "0", "number of the first scene"),
    key("data.train[].size", Pair, "[256, 128]", "[width, height] of a drawn scene"),
    key("data.train[].domain", Choice(DOMAINS), "'day'", "look of the drawn scenes"),
    key("data.eval[].name", Text, "''", "name in tables"),
    key("data.eval[].source", Choice(SOURCES), "'files'", "read files or draw scenes"),
    key("data.eval[].images", Folder, "''", "folder of the images, searched recursively"),
    key("data.eval[].labels", Folder, "''", "folder of the labels, of the same layout"),
    key("data.eval[].image_suffix", Text, "'.png'", "how image names end"),
    key("data.eval[].label_suffix", Text, "'.png'", "what label names have in its place"),
    key("data.eval[].id_map", IdMap, "'train_ids'", "from label values to train ids"),
    key("data.eval[].groups", Groups, "[]", "as data.groups, for this set"),
    key("data.eval[].count", Count, "0", "scenes to draw"),
    key("data.eval[].first", Count, "0", "number of the first scene"),
    key("data.eval[].size", Pair, "[256, 128]", "[width, height] of a drawn scene"),
    key("data.eval[].domain", Choice(DOMAINS), "'day'", "look of the drawn scenes"),
    key(
        "data.eval[].box",
        Pair,
        "[0, 0]",
        "[width, height] that images are fitted into; [0, 0]: as is",
    ),
    key("data.eval[].crop", Count, FOLLOWS, "side of the sliding window, by default eval.crop"),
    key(
        "data.eval[].stride",
        Count,
        FOLLOWS,
        "step of the window, by default eval.stride or 2/3 of its own crop",
    ),
    key("data.eval[].in_mean", Flag, "true", "whether the mean over sets counts it"),
    key("augment.crop", Count, "512", "side of the square crop in pixels").within(1, 1 << 14),
    key(
        "augment.ratios",
        Reals,
        "[0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]",
        "shortest edges to resize to, as multiples of crop",
    ),
    key("augment.max_long_edge", Count, FOLLOWS, "longest edge after the resize")
        .within(1, 1 << 20),
    key(
        "augment.cat_max_ratio",
        Real,
        "0.75",
        "draw a crop again if one class has more than this share, 1: never",
    ),
    key("augment.flip", Flag, "true", "mirror half of the samples"),
    key("augment.photometric", Flag, "true", "distort brightness, contrast, saturation, hue"),
    key("train.steps", Count, "40000", "steps").from(1),
    key("train.batch", Count, "4", "images that are computed at once").within(1, 4096),
    key("train.accumulate", Count, "1", "batches per step, which act as one large batch")
        .within(1, 4096),
    key("train.lr", Real, "1e-4", "learning rate before the schedule").range(Range::NotNegative),
    key("train.weight_decay", Real, "0.05", "decay of AdamW").range(Range::NotNegative),
    key(
        "train.weight_decay_end",
        Real,
        FOLLOWS,
        "decay at the last step, reached by half a cosine; by default it stays as it is",
    )
    .range(Range::NotNegative),
    key("train.beta1", Real, "0.9", "factor of AdamW's first moment").range(Range::BelowOne),
    key("train.beta2", Real, "0.999", "factor of AdamW's second moment").range(Range::BelowOne),
    key("train.eps", Real, "1e-8", "added to the root of the second moment").range(Range::Positive),
    key("train.clip_norm", Real, "0.0", "limit of the norm of all gradients together, 0: none")
        .range(Range::NotNegative),
    key("train.power", Real, "0.9", "exponent of the decay of the learning rate")
        .range(Range::NotNegative),
    key("train.lr_min", Real, "0.0", "learning rate at the last step").range(Range::NotNegative),
    key("train.warm_up_steps", Count, "0", "steps of linear warm-up"),
    key("train.warm_up_start", Real, "1e-6", "factor at the first step of the warm-up")
        .range(Range::NotNegative),
    key("train.adapter_lr_mult", Real, FOLLOWS, "rate of what trains within a frozen backbone")
        .range(Range::NotNegative),
    key("train.backbone_lr_mult", Real, "1.0", "rate of backbone weights when the method is full")
        .range(Range::NotNegative),
    key("train.recompute", Choice(LEVELS), "'none'", "less memory for more time, to the same bits"),
    key("train.seed", Count, "42", "seed of every random number"),
    key("train.eval_every", Count, "10000", "steps between evaluations, 0: only at the end"),
    key("train.checkpoint_every", Count, "4000", "steps between checkpoints, 0: only the last"),
    key(
        "train.checkpoint_minutes",
        Real,
        "10.0",
        "minutes between extra checkpoints, each replaces the one before; 0: none",
    )
    .range(Range::NotNegative),
    key("train.keep", Count, "3", "checkpoints kept").from(1),
    key("train.log_every", Count, "50", "steps between log lines").from(1),
    key(
        "train.save_signal",
        Choice(SIGNALS),
        "'none'",
        "another signal that saves and ends, as SIGINT, SIGTERM and SIGHUP do",
    ),
    key(
        "train.ema.rate",
        Real,
        "0.0",
        "keep an average a of the trained weights w, moved by rate (w - a) a step; 0: none",
    )
    .range(Range::BelowOne),
    key("train.ema.start", Count, "0", "first step, from 0, that moves the average"),
    key("eval.mode", Choice(&["slide", "whole"]), "'slide'", "sliding windows or the whole image"),
    key("eval.crop", Count, FOLLOWS, "side of the window for sets that name none")
        .within(1, 1 << 20),
    key(
        "eval.stride",
        Count,
        FOLLOWS,
        "step of the window for sets that name none, by default 2/3 of it",
    )
    .from(1),
    key("eval.batch", Count, "1", "windows computed together").within(1, 4096),
    key(
        "eval.averaged",
        Flag,
        FOLLOWS,
        "score and use a run's averaged weights, by default if train.ema.rate is not 0",
    ),
    key("run.dir", Path, "''", "run folder, by default runs/NAME"),
    key(
        "run.device",
        Text,
        "'auto'",
        "auto (a GPU if it can be used, else the CPU), cpu, cuda, cuda:N or virtual (for checks)",
    ),
    key(
        "run.precision",
        Choice(PRECISIONS),
        "'bf16'",
        "how activations and matrices are stored on a device; trained weights stay in f32 too",
    ),
    key("run.graphs", Flag, "true", "queue the steps of a device as captured graphs"),
    key(
        "run.cpu",
        Choice(CPUS),
        "'auto'",
        "code of the CPU: the fastest, or one whose bits are the same on every CPU that has it",
    ),
    key("run.threads", Count, "0", "threads for arithmetic, 0: one per core").up_to(4096),
    key(
        "run.workers",
        Count,
        "0",
        "threads that prepare samples, 0: 2 for the CPU, for a GPU all cores but one, up to 16",
    )
    .up_to(4096),
    key("run.check_memory", Flag, "true", "do not start a run that would not fit into memory"),
];

const FFNS: &[&str] = &["mlp", "quick-gelu", "swiglu", "normed-swiglu"];

const LEVELS: &[&str] = &["none", "cheap", "block"];

const STEMS: &[&str] = &["deep", "single"];

const PRECISIONS: &[&str] = &["f32", "bf16"];

const SIGNALS: &[&str] = &["none", "usr1", "usr2"];

const CPUS: &[&str] = &["auto", "avx512", "avx2", "portable"];

const HEADS: &[&str] = &["mask2former", "per-pixel", "semfpn", "deconv"];

const METHODS: &[&str] = &[
    "rein",
    "freeze",
    "full",
    "lora",
    "adaptformer",
    "vpt",
    "soma",
    "recycle-lora",
    "bitfit",
    "norms",
];

const LORA_TARGETS: &[&str] = &["qv", "qkv", "fused"];

const SOURCES: &[&str] = &["files", "scenes"];
