//! Settings of adapters.

use dressage_models::adapter::LoraTargets;
use serde::{Deserialize, Serialize};

/// Rein (spec backbones §5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rein {
    /// Tokens m per layer; equals `head.queries` when `link` is on.
    pub tokens: usize,
    /// Rank r of the tokens' low-rank factors; 0 trains full tokens.
    pub rank: usize,
    /// Whether the head's queries are made from the tokens.
    pub link: bool,
    /// Whether all layers have the same MLPs.
    pub share: bool,
    /// Whether the attention of features to tokens has a softmax over the tokens.
    pub softmax: bool,
    /// Whether to use the paper's literal form: `mlp_delta_f` starts at zero and `scale` is the
    /// constant 1.
    pub zero_mlp_delta_f: bool,
}

/// LoRA (spec peft-and-dgss §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Rank r of the factors.
    pub rank: usize,
    /// Factor α: the addition is scaled by α/r.
    pub alpha: f64,
    /// Share of the input that training drops before the factors.
    pub dropout: f64,
    /// Rows of the packed layer of queries, keys and values that are changed.
    pub targets: LoraTargets,
}

/// AdaptFormer (spec peft-and-dgss §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdaptFormer {
    /// Channels of the bottleneck.
    pub bottleneck: usize,
    /// Factor of the addition.
    pub scale: f64,
    /// Share of the bottleneck that training drops.
    pub dropout: f64,
}

/// VPT-deep (spec peft-and-dgss §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vpt {
    /// Prompts per block.
    pub prompts: usize,
}

/// SoMA (spec after-rein §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Soma {
    /// Rank r of the factors.
    pub rank: usize,
    /// First block with factors.
    pub first_block: usize,
}

/// RecycleLoRA (spec after-rein §1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecycleLora {
    /// Rank of the main branch.
    pub rank: usize,
    /// Rank of the second branch.
    pub second_rank: usize,
    /// First block with factors.
    pub first_block: usize,
    /// Learning rate of the second branch, relative to that of the main one.
    pub second_lr_mult: f64,
}
