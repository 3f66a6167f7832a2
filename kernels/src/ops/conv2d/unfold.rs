//! Unfolding (im2col): the pixels used by each place as one row, ready for a product.

use rayon::prelude::*;

use super::Conv2d;

/// Elements that a task copies at once.
const TASK: usize = 1 << 15;

/// Map that is read and places that are unfolded.
#[derive(Debug, Clone, Copy)]
pub struct Unfold {
    /// Rows, columns and channels of the map that is read.
    source: [usize; 3],
    /// Rows and columns of the places.
    places: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    pad: usize,
    dilation: usize,
    /// Whether places are pixels of `x` and the map is `dy`, instead of the other way round.
    backward: bool,
}

impl Unfold {
    /// Unfolding of the pixels of `x` used by each pixel of `y`.
    pub fn forward(s: &Conv2d) -> Self {
        let (ho, wo) = s.output().unwrap_or((0, 0));
        Self::new(s, [s.h, s.w, s.ci], [ho, wo], false)
    }

    /// Unfolding of the pixels of `y` that use each pixel of `x`.
    pub fn backward(s: &Conv2d) -> Self {
        let (ho, wo) = s.output().unwrap_or((0, 0));
        Self::new(s, [ho, wo, s.co], [s.h, s.w], true)
    }

    fn new(s: &Conv2d, source: [usize; 3], places: [usize; 2], backward: bool) -> Self {
        let &Conv2d { kh, kw, stride, pad, dilation, .. } = s;
        Self { source, places, kernel: [kh, kw], stride, pad, dilation, backward }
    }

    /// Elements per row: `kh * kw * c`.
    pub fn width(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.source[2]
    }

    /// Number of places in `images` images.
    pub fn len(&self, images: usize) -> usize {
        images * self.places[0] * self.places[1]
    }

    /// Writes `[rows, kh, kw, c]` for the places from `first` on, counted over all images; zeros
    /// off the map.
    pub fn rows(&self, map: &[f32], first: usize, rows: &mut [f32]) {
        let width = self.width();
        if width == 0 {
            return;
        }
        let piece = (TASK / width).max(1);
        rows.par_chunks_mut(piece * width).enumerate().for_each(|(k, rows)| {
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                self.row(map, first + k * piece + r, row);
            }
        });
    }

    fn row(&self, map: &[f32], place: usize, row: &mut [f32]) {
        let ([h, w, c], [_, kw]) = (self.source, self.kernel);
        let [ph, pw] = self.places;
        let (image, y, x) = (place / (ph * pw), place / pw % ph, place % pw);
        let map = &map[image * h * w * c..][..h * w * c];
        for (ky, taps) in row.chunks_exact_mut(kw * c).enumerate() {
            let Some(sy) = self.read(y, ky, h) else {
                taps.fill(0.0);
                continue;
            };
            let line = &map[sy * w * c..][..w * c];
            for (kx, tap) in taps.chunks_exact_mut(c).enumerate() {
                match self.read(x, kx, w) {
                    Some(sx) => tap.copy_from_slice(&line[sx * c..][..c]),
                    None => tap.fill(0.0),
                }
            }
        }
    }

    /// Row (or column) of the map that tap `k` of `place` reads; `None` off the map.
    fn read(&self, place: usize, k: usize, size: usize) -> Option<usize> {
        let k = k * self.dilation;
        let at = if self.backward {
            let at = (place + self.pad).checked_sub(k)?;
            at.is_multiple_of(self.stride).then_some(at / self.stride)?
        } else {
            (place * self.stride + k).checked_sub(self.pad)?
        };
        (at < size).then_some(at)
    }
}
