//! Networks: shapes, formulas, and reading and writing of weights. Data sets and time are not part
//! of this crate.
//!
//! Parameters carry the key names of the reference implementation, so its state dicts load
//! unchanged.

pub mod adapter;
pub mod backbone;
pub mod counts;
mod error;
mod generator;
pub mod layers;
pub mod objective;
pub mod params;
mod segmenter;
pub mod weights;

pub use error::{ModelError, Result};
pub use generator::Generator;
pub use params::Precision;
pub use segmenter::{Method, Segmenter, SegmenterConfig};
