//! Class of every pixel of an image, computed in strips of rows as scores become known. The scores
//! of a whole large image would take gigabytes.

use dressage_kernels::cpu::allocate::zeroed;
use dressage_kernels::ops::resize::{Axis, Mode, Resize, Step};

use crate::evaluate::argmax;
use crate::windows::ScoreMap;
use crate::{LabelMap, Result};

/// Number of scores that are resized at once.
const STRIP: usize = 1 << 22;

/// Classes of an image of `h` x `w`, from scores at test size.
pub(crate) struct Classes {
    k: usize,
    y: Axis,
    x: Axis,
    label: LabelMap,
    /// First row without classes.
    next: usize,
    /// Resized scores, `[k, rows, w]`.
    strip: Vec<f32>,
}

impl Classes {
    /// Makes an image without classes yet. `from` and `to` are height and width of the scores and
    /// of the image.
    ///
    /// # Errors
    /// A size of 0; too little memory.
    pub fn new(k: usize, from: [usize; 2], to: [usize; 2]) -> Result<Classes> {
        let axis = |i: usize| Axis::new(from[i], to[i], Mode::Bilinear, Step::Size);
        let (y, x) = (axis(0)?, axis(1)?);
        let [h, w] = to;
        let rows = (STRIP / (k * w).max(1)).clamp(1, h);
        let (data, strip) = (zeroed(h * w)?, zeroed(k * rows * w)?);
        Ok(Classes { k, y, x, label: LabelMap { w, h, data }, next: 0, strip })
    }

    /// First row of the scores that later classes need.
    pub fn needs(&self) -> usize {
        match self.next < self.label.h {
            true => self.y.taps(self.next).0.first().map_or(0, |&i| i as usize),
            false => self.y.n_in(),
        }
    }

    /// Last row of the scores that row `y` needs.
    fn last(&self, y: usize) -> usize {
        self.y.taps(y).0.last().map_or(0, |&i| i as usize)
    }

    /// Computes the classes of all rows that the finished rows of `map` decide.
    ///
    /// # Errors
    /// Rows of the map that were dropped too early.
    pub fn take(&mut self, map: &ScoreMap) -> Result<()> {
        let w = self.label.w;
        let most = self.strip.len() / (self.k * w).max(1);
        let (scores, resident_rows) = map.resident_rows();
        loop {
            let from = self.next;
            let rows = (from..self.label.h.min(from + most))
                .take_while(|&y| self.last(y) < map.finished());
            let n = rows.count();
            if n == 0 {
                return Ok(());
            }
            let resize = Resize { n: self.k, c: 1, y: self.y.clone(), x: self.x.clone() };
            let strip = &mut self.strip[..self.k * n * w];
            resize.forward_rows(from..from + n, scores, resident_rows, strip)?;
            self.label.data[from * w..][..n * w].copy_from_slice(&argmax(strip, self.k));
            self.next += n;
        }
    }

    /// Returns the classes. Rows that no call of [`Classes::take`] decided are 0.
    pub fn label(self) -> LabelMap {
        self.label
    }
}

#[cfg(test)]
mod tests {
    use dressage_engine::{Tensor, ops};

    use super::*;
    use crate::windows::{Window, slide};

    /// Scores that differ from pixel to pixel.
    fn scores(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.13).sin()).collect()
    }

    /// Windows in strips, compared with the whole map resized at once.
    #[test]
    fn strips_give_the_classes_of_the_whole_map() {
        let (k, crop) = (5, 16);
        for (from, to) in [([40, 33], [40, 33]), ([40, 33], [97, 64]), ([41, 50], [13, 21])] {
            let windows = slide(from[0], from[1], crop, 11).expect("windows");
            let mut whole = ScoreMap::new(k, from[0], from[1]);
            let mut map = ScoreMap::of_rows(k, from[0], from[1], crop + 1);
            let mut classes = Classes::new(k, from, to).expect("axes");
            let advance = |map: &mut ScoreMap, classes: &mut Classes, end: usize| {
                map.finish_rows(end).expect("covered");
                classes.take(map).expect("held");
                map.drop_rows(classes.needs());
            };
            for (i, window) in windows.iter().enumerate() {
                let scores = scores(i, k * crop * crop);
                whole.add(*window, &scores, crop, crop).expect("fits");
                if window.y0 > map.finished() {
                    advance(&mut map, &mut classes, window.y0);
                }
                map.add(*window, &scores, crop, crop).expect("fits");
            }
            advance(&mut map, &mut classes, from[0]);
            let whole = whole.finish().expect("covered");
            let whole = Tensor::from_slice(&whole, &[k, from[0], from[1]]).expect("scores");
            let resized = ops::resize_maps(&whole, to).expect("resized");
            let want = argmax(resized.data::<f32>().expect("f32"), k);
            assert_eq!(classes.label().data, want, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn rows_that_were_dropped_are_an_error() {
        let mut map = ScoreMap::of_rows(1, 8, 4, 4);
        let mut classes = Classes::new(1, [8, 4], [8, 4]).expect("axes");
        map.add(Window { y0: 0, y1: 4, x0: 0, x1: 4 }, &[1.0; 16], 4, 4).expect("fits");
        map.finish_rows(4).expect("covered");
        map.drop_rows(4);
        assert!(classes.take(&map).is_err());
    }
}
