//! Backbones: frozen (or fully trained) networks that turn an image into four tapped maps.

mod vit;

pub use vit::{Dino, DinoConfig, Ffn};

use dressage_engine::{Tensor, ops};

use crate::Result;

/// One level of the feature pyramid: a tapped map and the factor by which the reference resizes it.
///
/// The reader of the level resizes it, and may project to fewer channels first. A 1×1 convolution
/// with bias commutes with bilinear interpolation: projecting 1024 to 256 channels before enlarging
/// by 4 saves 15/16 of the work.
#[derive(Debug, Clone)]
pub struct Level {
    /// `[b, h, w, c]` as tapped.
    pub map: Tensor,
    /// 4, 2, 1 or 0.5.
    pub factor: f64,
}

impl Level {
    /// A level that needs no resizing.
    pub fn plain(map: Tensor) -> Level {
        Level { map, factor: 1.0 }
    }

    /// The resized map (bilinear, no corner alignment, step 1/factor).
    ///
    /// # Errors
    /// If the map is not four-dimensional.
    pub fn resized(&self) -> Result<Tensor> {
        resize_by(&self.map, self.factor)
    }
}

/// Bilinear resize by a factor, as in the reference's pyramid; factor 1 returns the map itself.
pub(crate) fn resize_by(map: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(map.clone()) } else { Ok(ops::resize_by_factor(map, factor)?) }
}

/// Resize factors of the four taps: strides 4, 8, 16 and 32 from a patch of 16.
pub const PYRAMID: [f64; 4] = [4.0, 2.0, 1.0, 0.5];
