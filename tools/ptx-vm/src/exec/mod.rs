//! Execution: blocks, warps that take turns between barriers, groups of lanes inside a warp.

mod access;
mod async_copy;
mod atomic;
mod block;
mod compute;
pub(crate) mod convert;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
mod matrix;
pub(crate) mod scalar;
mod shared;
mod state;
mod step;
mod stream;
mod together;
mod track;
pub(crate) mod vector;
mod warp;

pub(crate) use block::{Block, Outcome};

use crate::memory::Memory;
use crate::program::Program;

/// Data that all blocks of a launch share.
pub(crate) struct Launched<'a> {
    pub kernel: &'a str,
    pub program: &'a Program,
    /// Source lines, for findings
    pub lines: &'a [String],
    pub memory: &'a Memory,
    /// Addresses of the module's variables
    pub variables: &'a [u64],
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: u32,
    pub dynamic_shared: u32,
    /// Number of steps after which a block is stopped
    pub limit: u64,
    /// Whether races between blocks are searched
    pub races: bool,
    /// Whether the CPU has AVX2 with FMA
    pub fast: bool,
}
