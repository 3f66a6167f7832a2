//! The training-sample pipeline: resize, crop, flip, photometric distortion, normalise, pad.
//!
//! The order is fixed, and every step is bitwise equal to that of the published recipe (spec
//! training-and-data §2). All randomness of a sample comes from one keyed generator in this order:
//! index of the shortest edge; row and column offset of each crop tried; the coin of the flip; the
//! draws of `photometric::distort`. The same key gives the same sample on any thread.
//!
//! One thing is done in another order without changing a bit. The label is resized and the crop
//! chosen first; then only the chosen window of the picture is resized.

pub mod crop;
pub mod normalise;
pub mod photometric;
pub mod resize;
#[cfg(test)]
mod tests;

use crate::{Image, LabelMap, Result, TrainError};
use dressage_engine::Philox;

/// Augmentation of a training sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Augment {
    /// Height of a sample in pixels.
    pub crop_h: usize,
    /// Width of a sample in pixels.
    pub crop_w: usize,
    /// Shortest edges to draw from; empty leaves the size as it is.
    pub shortest_edges: Vec<usize>,
    /// Longest edge after the resize.
    pub max_edge: usize,
    /// Largest share of one class in a crop.
    pub class_cap: f64,
    /// Whether half of the samples are mirrored.
    pub flip: bool,
    /// Whether brightness, contrast, saturation and hue are distorted.
    pub photometric: bool,
}

impl Augment {
    /// The published settings for a square crop of `crop` pixels (512 or 1024 there).
    pub fn published(crop: usize) -> Self {
        Self {
            crop_h: crop,
            crop_w: crop,
            shortest_edges: resize::shortest_edges(crop),
            max_edge: 4 * crop,
            class_cap: 0.75,
            flip: true,
            photometric: true,
        }
    }

    /// Fails on settings that no picture could satisfy.
    ///
    /// # Errors
    /// [`TrainError::Setting`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let fail = |setting, what: String| Err(TrainError::Setting { setting, what });
        if self.crop_h == 0 || self.crop_w == 0 {
            return fail("augment.crop", format!("{}x{} has no pixels", self.crop_h, self.crop_w));
        }
        if self.shortest_edges.contains(&0) || self.max_edge == 0 {
            return fail("augment.ratios", "an edge of 0 pixels".into());
        }
        if self.class_cap.is_nan() || self.class_cap <= 0.0 {
            return fail("augment.cat_max_ratio", format!("{} is not above 0", self.class_cap));
        }
        Ok(())
    }

    /// Draws one sample in 8 bits, at most `crop_h x crop_w`: everything but normalisation and
    /// padding.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when image and label differ in size or are empty.
    pub fn sample(
        &self,
        image: &Image,
        label: &LabelMap,
        random: &mut Philox,
    ) -> Result<(Image, LabelMap)> {
        if (image.w, image.h) != (label.w, label.h) || image.w * image.h == 0 {
            let sizes = (image.w, image.h, label.w, label.h);
            let what = format!("image {}x{} and label {}x{}", sizes.0, sizes.1, sizes.2, sizes.3);
            return Err(TrainError::Setting { setting: "sample", what });
        }
        let (h, w) = self.draw_size(image, random);
        let label = resize::nearest(label, h, w);
        let window = crop::choose(&label, self.crop_h, self.crop_w, self.class_cap, random);
        let mut label = crop::label_window(&label, window);
        let mut image = resize::bilinear_window(image, h, w, window);
        if self.flip && random.below(2) == 1 {
            flip(&mut image, &mut label);
        }
        if self.photometric {
            photometric::distort(&mut image, random);
        }
        Ok((image, label))
    }

    fn draw_size(&self, image: &Image, random: &mut Philox) -> (usize, usize) {
        if self.shortest_edges.is_empty() {
            return (image.h, image.w);
        }
        let k = random.below(self.shortest_edges.len() as u32) as usize;
        resize::resized_size(image.h, image.w, self.shortest_edges[k], self.max_edge)
    }
}

/// Mirrors image and label left to right.
pub fn flip(image: &mut Image, label: &mut LabelMap) {
    for row in image.data.chunks_exact_mut((image.w * 3).max(1)) {
        row.as_chunks_mut::<3>().0.reverse();
    }
    for row in label.data.chunks_exact_mut(label.w.max(1)) {
        row.reverse();
    }
}
