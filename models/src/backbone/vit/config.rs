//! Sizes and parts of a vision transformer (spec backbones §1.1, dinov3 §1).

use serde::{Deserialize, Serialize};

/// Form of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ffn {
    /// fc1, exact GELU, fc2.
    Mlp,
    /// fc1, x sigmoid(1.702 x), fc2 (CLIP).
    QuickGelu,
    /// w12, silu(first half) * second half, w3 (DINOv2-g, DINOv3).
    Swiglu,
    /// A SwiGLU with a layer norm before the last layer (EVA-02).
    NormedSwiglu,
}

impl Ffn {
    /// Hidden width for `c` channels and an MLP ratio of `ratio` (published: 4).
    ///
    /// SwiGLU has two branches, each with two thirds of `c * ratio`. They are rounded up to a
    /// multiple of 8, but not those of EVA-02.
    pub const fn hidden(self, c: usize, ratio: f64) -> usize {
        let hidden = (c as f64 * ratio) as usize;
        match self {
            Ffn::Mlp | Ffn::QuickGelu => hidden,
            Ffn::Swiglu => (hidden * 2 / 3).div_ceil(8) * 8,
            Ffn::NormedSwiglu => hidden * 2 / 3,
        }
    }

    /// Whether the first layer has a second branch that gates.
    pub fn gated(self) -> bool {
        matches!(self, Ffn::Swiglu | Ffn::NormedSwiglu)
    }
}

/// The token in front of the patches that stands for the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassToken {
    /// None (SAM).
    Absent,
    /// The learned vector.
    Once,
    /// Twice the learned vector: the reference's CLIP adds it to its position too (spec §4.2).
    Twice,
}

/// Learned positions that are added to the tokens, and the way they are resized to other grids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionTable {
    /// None (DINOv3).
    Absent,
    /// Bicubic by a factor of (n + 0.1)/g; with registers to the size, antialiased (DINOv2).
    Dinov2,
    /// Bicubic to the size (MAE, EVA-02, SAM).
    Bicubic,
    /// Bilinear to the size (CLIP).
    Bilinear,
}

/// Rotation of queries and keys by the position of their patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryEmbedding {
    /// Neighbouring channels form a pair; any grid spans `side` patches (EVA-02, spec §4.4).
    Neighbours {
        /// Side of the grid in pre-training.
        side: usize,
    },
    /// Channel j and j + d/2 form a pair; any grid spans (-1, 1) (DINOv3, spec dinov3 §3).
    Halves,
}

/// Biases of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvBias {
    /// One vector for all three.
    Full,
    /// One vector for all three, of which the keys' part is zero and never trains (DINOv3).
    MaskedKey,
    /// Two vectors, for queries and values (EVA-02).
    QueryValue,
    /// None (DINOv3 7B).
    Absent,
}

impl QkvBias {
    /// Names of the vectors within the attention.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            QkvBias::Full | QkvBias::MaskedKey => &["qkv.bias"],
            QkvBias::QueryValue => &["q_bias", "v_bias"],
            QkvBias::Absent => &[],
        }
    }
}

/// Attention within windows, with relative positions (SAM, spec §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowConfig {
    /// Side of a window in patches.
    pub side: usize,
    /// Blocks that attend to the whole image instead.
    pub global: [usize; 4],
    /// Rows of the relative-position tables of these blocks, resized to the grid.
    pub global_rows: usize,
}

/// Sizes and parts of a vision transformer: pre-norm blocks on a class token, registers and patches.
#[derive(Debug, Clone, PartialEq)]
pub struct VitConfig {
    /// Width c.
    pub embed_dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Side of the position table in patches.
    pub grid: usize,
    /// Position table.
    pub positions: PositionTable,
    /// Rotary embedding of queries and keys.
    pub rotary: Option<RotaryEmbedding>,
    /// Windows and relative positions.
    pub windows: Option<WindowConfig>,
    /// Class token.
    pub class_token: ClassToken,
    /// Number of register tokens.
    pub registers: usize,
    /// Whether a layer norm precedes the first block (CLIP).
    pub pre_norm: bool,
    /// Biases of queries, keys and values.
    pub qkv_bias: QkvBias,
    /// Form of the MLP.
    pub ffn: Ffn,
    /// Hidden width of the MLP, of one branch for SwiGLU.
    pub hidden: usize,
    /// Whether the branches of a block are scaled per channel.
    pub layer_scale: bool,
    /// Constant that the layer norms add to the variance.
    pub eps: f64,
    /// Whether there is a layer norm after the last block.
    pub final_norm: bool,
    /// Whether the tapped maps go through that norm.
    pub tap_norm: bool,
    /// Blocks whose output is tapped, zero-based.
    pub taps: [usize; 4],
    /// Rate of stochastic depth in training, reached at the last block.
    pub drop_path: f64,
}

impl VitConfig {
    /// A DINOv2 without registers: its channels, blocks, heads and MLP, for patches of 14 pixels.
    pub const fn dinov2(embed_dim: usize, depth: usize, heads: usize, ffn: Ffn) -> VitConfig {
        VitConfig {
            embed_dim,
            depth,
            heads,
            patch: 14,
            patch_bias: true,
            grid: 37,
            positions: PositionTable::Dinov2,
            rotary: None,
            windows: None,
            class_token: ClassToken::Once,
            registers: 0,
            pre_norm: false,
            qkv_bias: QkvBias::Full,
            ffn,
            hidden: ffn.hidden(embed_dim, 4.0),
            layer_scale: true,
            eps: 1e-6,
            final_norm: true,
            tap_norm: false,
            taps: VitConfig::default_taps(depth),
            drop_path: 0.0,
        }
    }

    /// The same network for patches of `patch` pixels and a position table of `grid` patches a side.
    pub fn at(&self, patch: usize, grid: usize) -> VitConfig {
        VitConfig { patch, grid, ..self.clone() }
    }

    /// Taps of a network of this depth. For 24 blocks 7, 11, 15, 23 as released; elsewhere quarters
    /// of the depth.
    pub const fn default_taps(depth: usize) -> [usize; 4] {
        match depth {
            24 => [7, 11, 15, 23],
            40 => [9, 19, 29, 39],
            12 => [2, 5, 8, 11],
            d => [
                (d / 4).saturating_sub(1),
                (2 * d / 4).saturating_sub(1),
                (3 * d / 4).saturating_sub(1),
                d.saturating_sub(1),
            ],
        }
    }

    /// Whether the parts are those of `other`, whatever the sizes.
    pub fn is_like(&self, other: &VitConfig) -> bool {
        let sizes = VitConfig {
            embed_dim: other.embed_dim,
            depth: other.depth,
            heads: other.heads,
            patch: other.patch,
            grid: other.grid,
            hidden: other.hidden,
            registers: other.registers,
            tap_norm: other.tap_norm,
            taps: other.taps,
            drop_path: other.drop_path,
            ..self.clone()
        };
        sizes == *other
    }

    /// Tokens in front of the patches: the class token and registers.
    pub fn lead(&self) -> usize {
        usize::from(self.class_token != ClassToken::Absent) + self.registers
    }

    /// Shape of the position table: `[1, 1 + g*g, c]`, or `[1, g, g, c]` without a class token.
    pub fn table_shape(&self) -> Vec<usize> {
        let (g, c) = (self.grid, self.embed_dim);
        match self.class_token {
            ClassToken::Absent => vec![1, g, g, c],
            _ => vec![1, 1 + g * g, c],
        }
    }

    /// Whether block `i` attends within windows.
    pub fn windowed(&self, i: usize) -> bool {
        self.windows.is_some_and(|windows| !windows.global.contains(&i))
    }

    /// Number of rows of the relative-position tables of block `i`.
    pub fn relative_rows(&self, i: usize) -> Option<usize> {
        let windows = self.windows?;
        Some(if self.windowed(i) { 2 * windows.side - 1 } else { windows.global_rows })
    }
}
