//! Data, recipes, the optimiser, the loop, checkpoints and evaluation.
//!
//! This crate knows files and time. It never prints: errors are values, progress is reported
//! through traits.

pub mod augment;
pub mod data;
mod error;
pub mod palette;
pub mod pictures;
mod raster;
pub mod scenes;

pub use error::{Result, TrainError};
pub use raster::{Image, LabelMap};

/// Label of pixels that no loss and no metric looks at.
pub const IGNORE: u8 = 255;
