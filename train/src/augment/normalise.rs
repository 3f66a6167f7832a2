//! Conversion of 8-bit pixels to the floats that enter the network.
//!
//! Source: spec training-and-data §2.8.

use std::sync::LazyLock;

use crate::{IGNORE, Image, LabelMap};

/// Mean of each channel (red, green, blue) on the 0 to 255 scale.
pub const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Standard deviation of each channel on the 0 to 255 scale.
pub const STD: [f32; 3] = [58.395, 57.12, 57.375];

static TABLES: LazyLock<[[f32; 256]; 3]> = LazyLock::new(|| {
    std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 - MEAN[c]) / STD[c]))
});

/// Writes `image` as `[3, h, w]` floats `(v - mean) / std` into `out`. Padding at the right and the
/// bottom is 0, the mean colour; pixels that do not fit are left out.
///
/// # Panics
/// When `out` has another length than `3 * h * w`.
pub(crate) fn image_into(image: &Image, h: usize, w: usize, out: &mut [f32]) {
    assert_eq!(out.len(), 3 * h * w, "normalised image");
    let (rows, columns) = (image.h.min(h), image.w.min(w));
    out.fill(0.0);
    for y in 0..rows {
        let row = image.data[y * image.w * 3..][..columns * 3].as_chunks::<3>().0;
        for (c, table) in TABLES.iter().enumerate() {
            for (out, rgb) in out[(c * h + y) * w..][..columns].iter_mut().zip(row) {
                *out = table[rgb[c] as usize];
            }
        }
    }
}

/// Writes `label` as `[h, w]` into `out`, padded with [`IGNORE`] at the right and the bottom.
///
/// # Panics
/// When `out` has another length than `h * w`.
pub(crate) fn label_into(label: &LabelMap, h: usize, w: usize, out: &mut [u8]) {
    assert_eq!(out.len(), h * w, "padded label");
    let (rows, columns) = (label.h.min(h), label.w.min(w));
    out.fill(IGNORE);
    for y in 0..rows {
        out[y * w..][..columns].copy_from_slice(&label.data[y * label.w..][..columns]);
    }
}
