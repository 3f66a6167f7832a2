//! What the CPU forms of the operations share: vectors, tiles, scratch memory, allocation.

pub mod allocate;
pub(crate) mod logistic;
pub(crate) mod product;
pub mod scratch;
pub mod simd;
pub(crate) mod tile;
