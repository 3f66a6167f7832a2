//! Data, recipes, the optimiser, the loop, checkpoints and evaluation.
//!
//! This crate handles files and time. It never prints: errors are values, and progress is reported
//! through traits.

pub mod augment;
pub mod checkpoint;
pub mod checkpoint_timer;
mod classes;
pub mod data;
mod error;
pub mod evaluate;
pub mod files;
mod finite;
mod graphs;
pub mod groups;
pub mod interrupt;
mod lock;
pub mod machine;
pub mod metrics;
pub mod network;
pub mod optimiser;
mod output;
pub mod palette;
mod parts;
pub mod pictures;
pub mod place;
pub mod plan;
mod raster;
pub mod recipe;
pub mod resume;
pub mod run_folder;
pub mod runlog;
mod saving;
pub mod scenes;
pub mod schedule;
mod scoring;
mod setup;
mod step;
pub mod trainer;
mod user_cache;
pub mod verified;
pub mod wait;
pub mod windows;

pub use error::{Result, TrainError};
pub use raster::{Image, LabelMap};

/// Label of pixels that all losses and metrics ignore.
pub const IGNORE: u8 = 255;

/// JSON files of this name in the folders of `DRESSAGE_FIXTURES`, each with its path. Empty if that
/// variable is not set.
#[cfg(test)]
pub(crate) fn recorded(name: &str) -> Vec<(String, serde_json::Value)> {
    let dirs = dressage_kernels::check::fixture_dirs();
    let files = dirs.into_iter().map(|dir| dir.join(name)).filter(|p| p.is_file());
    files
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("readable fixture");
            (path.display().to_string(), serde_json::from_str(&text).expect("JSON"))
        })
        .collect()
}
