//! Windows of an image that the network sees at test time, and the mean of their scores.
//!
//! ```text
//! n = max(L - c + s - 1, 0) div s + 1       windows along an axis of L pixels, crop c, stride s
//! end = min(k s + c, L)    start = max(end - c, 0)       k = 0 .. n - 1
//! ```
//! The last window is shifted back inside, so windows overlap more there. An axis shorter than the
//! crop has one window, which is the whole axis. Scores are summed where windows overlap and
//! divided by the number of windows. Source: spec mask2former §5.3 and training-and-data §3.

use dressage_kernels::cpu::allocate::zeroed_or_unwind;

/// A part of an image, in pixels; the ends are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub y0: usize,
    /// One past the last row.
    pub y1: usize,
    /// First column.
    pub x0: usize,
    /// One past the last column.
    pub x1: usize,
}

impl Window {
    /// Number of rows.
    pub fn h(&self) -> usize {
        self.y1 - self.y0
    }

    /// Number of columns.
    pub fn w(&self) -> usize {
        self.x1 - self.x0
    }
}

/// Errors of windows or scores that do not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// A value that must not be 0.
    #[error("test windows: {0} is 0")]
    Zero(&'static str),
    /// A stride that leaves gaps.
    #[error("test windows: a stride of {stride} leaves gaps between windows of {crop}")]
    Gaps {
        /// Step.
        stride: usize,
        /// Side of the window.
        crop: usize,
    },
    /// Scores of another size than their window.
    #[error("test windows: scores of {found} numbers, {classes} classes of {h}x{w} need {}",
        classes * h * w)]
    Scores {
        /// Classes.
        classes: usize,
        /// Rows of the window.
        h: usize,
        /// Columns of the window.
        w: usize,
        /// Number of values found.
        found: usize,
    },
    /// A window that exceeds the image or its scores.
    #[error(
        "test windows: {window:?} does not fit an image of {h}x{w} or scores of {rows}x{pitch}"
    )]
    Outside {
        /// The window.
        window: Window,
        /// Rows of the image.
        h: usize,
        /// Columns of the image.
        w: usize,
        /// Rows of the scores.
        rows: usize,
        /// Columns of the scores.
        pitch: usize,
    },
    /// A pixel that no window covers.
    #[error("test windows: no window covers row {y}, column {x}")]
    Uncovered {
        /// Row.
        y: usize,
        /// Column.
        x: usize,
    },
}

/// Start and end of the windows along one axis.
fn spans(length: usize, crop: usize, stride: usize) -> Vec<(usize, usize)> {
    let steps = length.saturating_sub(crop).div_ceil(stride);
    (0..=steps)
        .map(|k| {
            let end = (k * stride + crop).min(length);
            (end.saturating_sub(crop), end)
        })
        .collect()
}

/// Windows of `crop` pixels every `stride` pixels over an image of `h x w`, row by row.
///
/// # Errors
/// A 0, or a stride above the crop.
pub fn slide(h: usize, w: usize, crop: usize, stride: usize) -> Result<Vec<Window>, WindowError> {
    for (what, n) in
        [("the height", h), ("the width", w), ("the crop", crop), ("the stride", stride)]
    {
        if n == 0 {
            return Err(WindowError::Zero(what));
        }
    }
    if stride > crop {
        return Err(WindowError::Gaps { stride, crop });
    }
    let columns = spans(w, crop, stride);
    let rows = spans(h, crop, stride).into_iter();
    Ok(rows
        .flat_map(|(y0, y1)| columns.iter().map(move |&(x0, x1)| Window { y0, y1, x0, x1 }))
        .collect())
}

/// The one window of whole-image inference.
pub fn whole(h: usize, w: usize) -> Window {
    Window { y0: 0, y1: h, x0: 0, x1: w }
}

/// Height and width of an `h x w` image fitted into a box of `box_w x box_h`, in either
/// orientation. The longer side is at most the box's longer one, the shorter at most its shorter
/// one. The ratio is kept, and halves are rounded up. A box of `0 x 0` keeps the size.
pub(crate) fn test_size(h: usize, w: usize, box_w: usize, box_h: usize) -> (usize, usize) {
    let (long, short) = (h.max(w), h.min(w));
    if (box_w == 0 && box_h == 0) || short == 0 {
        return (h, w);
    }
    let by_long = box_w.max(box_h) as f64 / long as f64;
    let by_short = box_w.min(box_h) as f64 / short as f64;
    let g = by_long.min(by_short);
    let scale = |n: usize| ((n as f64 * g + 0.5) as usize).max(1);
    (scale(h), scale(w))
}

/// Smallest multiple of `patch` that is at least `n`, and at least two patches. The coarsest map of
/// the head makes one position of two patches. Windows of another size are padded at the right and
/// the bottom with the mean colour (0 after normalisation), and the scores are cropped. The
/// reference instead fails on them: they occur with images wider than twice their height, and in
/// whole mode.
pub fn padded(n: usize, patch: usize) -> usize {
    let patch = patch.max(1);
    n.next_multiple_of(patch).max(2 * patch)
}

/// Sum of the scores of the windows of an image. Windows come row by row, so only the rows that a
/// later window may change are stored.
#[derive(Debug, Clone)]
pub struct ScoreMap {
    classes: usize,
    h: usize,
    w: usize,
    /// First stored row.
    top: usize,
    /// Number of stored rows, or room for them.
    rows: usize,
    /// Number of rows from the top of the image that are means. No later window covers them.
    finished: usize,
    /// `[classes, rows, w]`.
    sum: Vec<f32>,
    /// `[rows, w]`: number of windows that cover each pixel.
    visits: Vec<u32>,
}

impl ScoreMap {
    /// Makes an empty map with room for the whole image. Unwinds if there is too little memory
    /// ([`dressage_kernels::cpu::allocate`]).
    pub fn new(classes: usize, h: usize, w: usize) -> Self {
        Self::of_rows(classes, h, w, h)
    }

    /// Makes an empty map with room for `rows` rows at a time.
    pub(crate) fn of_rows(classes: usize, h: usize, w: usize, rows: usize) -> Self {
        let rows = rows.min(h);
        let sum = zeroed_or_unwind(classes * rows * w);
        let visits = zeroed_or_unwind(rows * w);
        Self { classes, h, w, top: 0, rows, finished: 0, sum, visits }
    }

    /// Adds the scores of a window, `[classes, rows, columns]`. Each class has `pitch_rows` rows of
    /// `pitch` values, more than the window where it was padded.
    ///
    /// # Errors
    /// A window outside the image, or in rows that are finished or not stored; scores of another
    /// length.
    pub fn add(
        &mut self,
        window: Window,
        scores: &[f32],
        pitch_rows: usize,
        pitch: usize,
    ) -> Result<(), WindowError> {
        let Window { y0, y1, x0, x1 } = window;
        let stored = self.finished <= y0 && y1 <= self.h.min(self.top + self.rows);
        let inside = y0 < y1 && stored && x0 < x1 && x1 <= self.w;
        if !inside || pitch_rows < window.h() || pitch < window.w() {
            let (h, w, rows) = (self.h, self.w, pitch_rows);
            return Err(WindowError::Outside { window, h, w, rows, pitch });
        }
        let (classes, found) = (self.classes, scores.len());
        if found != classes * pitch_rows * pitch {
            return Err(WindowError::Scores { classes, h: pitch_rows, w: pitch, found });
        }
        for class in 0..classes {
            for y in y0..y1 {
                let to = (class * self.rows + y - self.top) * self.w;
                let from = (class * pitch_rows + y - y0) * pitch;
                let sums = &mut self.sum[to + x0..to + x1];
                let scores = &scores[from..from + window.w()];
                sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
            }
        }
        for y in y0..y1 {
            let row = (y - self.top) * self.w;
            self.visits[row + x0..row + x1].iter_mut().for_each(|n| *n += 1);
        }
        Ok(())
    }

    /// Divides the sums in all rows above `end` to get means. No later window may cover these rows.
    ///
    /// # Errors
    /// A pixel that no window covers.
    pub(crate) fn finish_rows(&mut self, end: usize) -> Result<(), WindowError> {
        let rows =
            self.finished - self.top..end.clamp(self.finished, self.top + self.rows) - self.top;
        let part = rows.start * self.w..rows.end * self.w;
        let visits = &self.visits[part.clone()];
        if let Some(i) = visits.iter().position(|&n| n == 0) {
            return Err(WindowError::Uncovered { y: self.finished + i / self.w, x: i % self.w });
        }
        for plane in self.sum.chunks_exact_mut((self.rows * self.w).max(1)) {
            let sums = plane[part.clone()].iter_mut();
            sums.zip(visits).for_each(|(sum, &n)| *sum /= n as f32);
        }
        self.finished = self.top + rows.end;
        Ok(())
    }

    /// Number of rows from the top of the image that are means.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// Stored rows, `[classes, rows, w]`, with the first row and the number of rows.
    pub(crate) fn resident_rows(&self) -> (&[f32], (usize, usize)) {
        (&self.sum, (self.top, self.rows))
    }

    /// Drops the finished rows above `top`, which makes room for as many at the bottom.
    pub(crate) fn drop_rows(&mut self, top: usize) {
        let dropped = top.min(self.finished).saturating_sub(self.top);
        let (from, all) = (dropped * self.w, self.rows * self.w);
        if dropped == 0 {
            return;
        }
        for plane in self.sum.chunks_exact_mut(all) {
            plane.copy_within(from.., 0);
            plane[all - from..].fill(0.0);
        }
        self.visits.copy_within(from.., 0);
        self.visits[all - from..].fill(0);
        self.top += dropped;
    }

    /// Mean scores, `[classes, h, w]`.
    ///
    /// # Errors
    /// A pixel that no window covers.
    pub fn finish(mut self) -> Result<Vec<f32>, WindowError> {
        self.finish_rows(self.h)?;
        Ok(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(h: usize, w: usize, crop: usize, stride: usize) -> (Vec<usize>, Vec<usize>) {
        let windows = slide(h, w, crop, stride).expect("valid");
        let mut ys: Vec<_> = windows.iter().map(|w| w.y0).collect();
        ys.dedup();
        let xs: Vec<_> = windows.iter().filter(|w| w.y0 == ys[0]).map(|w| w.x0).collect();
        assert_eq!(windows.len(), ys.len() * xs.len());
        (ys, xs)
    }

    /// Examples of spec mask2former §5.3.
    #[test]
    fn published_grids() {
        assert_eq!(starts(512, 1024, 512, 341), (vec![0], vec![0, 341, 512]));
        assert_eq!(starts(720, 1280, 512, 341), (vec![0, 208], vec![0, 341, 682, 768]));
        assert_eq!(starts(1024, 2048, 1024, 683), (vec![0], vec![0, 683, 1024]));
        assert_eq!(starts(1080, 1920, 1024, 683), (vec![0, 56], vec![0, 683, 896]));
        assert_eq!(starts(512, 512, 512, 341), (vec![0], vec![0]));
        assert_eq!(starts(512, 513, 512, 341), (vec![0], vec![0, 1]));
    }

    #[test]
    fn windows_follow_the_formula_and_leave_no_gap() {
        for length in 1..200 {
            for (crop, stride) in [(1, 1), (16, 11), (64, 43), (64, 64), (200, 7)] {
                let spans = spans(length, crop, stride);
                let n = (length + stride - 1).saturating_sub(crop) / stride + 1;
                assert_eq!(spans.len(), n, "{length} {crop} {stride}");
                assert!(spans.iter().all(|(a, b)| b - a == crop.min(length)));
                assert!(spans.windows(2).all(|w| w[0].0 < w[1].0 && w[1].0 <= w[0].1));
                assert_eq!((spans[0].0, spans[n - 1].1), (0, length));
            }
        }
    }

    #[test]
    fn a_short_axis_is_one_window() {
        let windows = slide(300, 700, 512, 341).expect("valid");
        assert_eq!(windows[0], Window { y0: 0, y1: 300, x0: 0, x1: 512 });
        assert_eq!(
            (windows.len(), windows[1].h(), windows[1].w(), windows[1].x0),
            (2, 300, 512, 188)
        );
        assert_eq!(whole(300, 700), Window { y0: 0, y1: 300, x0: 0, x1: 700 });
        assert_eq!((padded(300, 16), padded(512, 16), padded(1, 14)), (304, 512, 28));
    }

    #[test]
    fn senseless_windows_are_refused() {
        assert_eq!(slide(0, 5, 4, 4), Err(WindowError::Zero("the height")));
        assert_eq!(slide(5, 5, 4, 0), Err(WindowError::Zero("the stride")));
        assert_eq!(slide(9, 9, 4, 5), Err(WindowError::Gaps { stride: 5, crop: 4 }));
    }

    /// The sets of spec training-and-data §3.
    #[test]
    fn test_sizes() {
        assert_eq!(test_size(1024, 2048, 1024, 512), (512, 1024));
        assert_eq!(test_size(720, 1280, 1280, 720), (720, 1280));
        assert_eq!(test_size(1080, 1920, 960, 540), (540, 960));
        // GTAV frames are a little wider than 16:9: the width decides.
        assert_eq!(test_size(1052, 1914, 1280, 720), (704, 1280));
        // A portrait image turns the box.
        assert_eq!(test_size(2048, 1024, 1024, 512), (1024, 512));
        // Wider than 2:1: the short side falls below 512.
        assert_eq!(test_size(1000, 3000, 1024, 512), (341, 1024));
        assert_eq!(test_size(333, 444, 0, 0), (333, 444));
        assert_eq!(test_size(1, 5000, 100, 50), (1, 100));
    }

    #[test]
    fn overlaps_are_averaged_and_padding_is_cut() {
        let mut map = ScoreMap::new(2, 2, 5);
        let windows = slide(2, 5, 3, 2).expect("valid");
        assert_eq!(windows.len(), 2);
        // Padded to 4x4: everything beyond 2x3 is 99 and must not be used.
        let window = |base: f32| -> Vec<f32> {
            (0..32)
                .map(|i| {
                    let (class, y, x) = (i / 16, i / 4 % 4, i % 4);
                    let inside = y < 2 && x < 3;
                    if inside { base + (100 * class + 10 * y + x) as f32 } else { 99.0 }
                })
                .collect()
        };
        map.add(windows[0], &window(1.0), 4, 4).expect("fits");
        assert_eq!(map.clone().finish(), Err(WindowError::Uncovered { y: 0, x: 3 }));
        map.add(windows[1], &window(5.0), 4, 4).expect("fits");
        let scores = map.finish().expect("covered");
        // Column 2: (1 + 2) from the first window, 5 + 0 from the second.
        assert_eq!(scores[..5], [1.0, 2.0, 4.0, 6.0, 7.0]);
        assert_eq!(scores[15..], [111.0, 112.0, 114.0, 116.0, 117.0]);
        let mut map = ScoreMap::new(2, 2, 5);
        assert!(map.add(windows[0], &[0.0; 11], 2, 3).is_err());
        assert!(map.add(Window { y0: 0, y1: 3, x0: 0, x1: 3 }, &[0.0; 18], 3, 3).is_err());
    }

    /// Rows that are passed on as soon as they are finished equal those of the whole map.
    #[test]
    fn few_rows_at_a_time_give_the_same_means() {
        let (classes, h, w, crop) = (3, 23, 17, 8);
        let windows = slide(h, w, crop, 5).expect("valid");
        let scores = |i: usize| -> Vec<f32> {
            (0..classes * crop * crop).map(|k| ((i * 977 + k) as f32 * 0.37).sin()).collect()
        };
        let mut whole = ScoreMap::new(classes, h, w);
        let mut strip = ScoreMap::of_rows(classes, h, w, crop + 1);
        let mut rows = vec![Vec::new(); classes];
        let mut seen = 0;
        let mut hand_on = |strip: &mut ScoreMap, end: usize| {
            strip.finish_rows(end).expect("covered");
            let (sums, (top, n)) = strip.resident_rows();
            for (class, rows) in rows.iter_mut().enumerate() {
                let plane = &sums[class * n * w..][..n * w];
                rows.extend_from_slice(&plane[(seen - top) * w..(end - top) * w]);
            }
            seen = end;
            // One row stays, as for the interpolation between two rows.
            strip.drop_rows(end.saturating_sub(1));
        };
        for (i, window) in windows.iter().enumerate() {
            whole.add(*window, &scores(i), crop, crop).expect("fits");
            if window.y0 > strip.finished() {
                hand_on(&mut strip, window.y0);
            }
            strip.add(*window, &scores(i), crop, crop).expect("fits");
        }
        hand_on(&mut strip, h);
        assert_eq!(rows.concat(), whole.finish().expect("covered"));
        assert!(strip.add(windows[0], &scores(0), crop, crop).is_err(), "rows that are gone");
    }

    /// Window logits and their average, if the recorded tensors are available.
    #[test]
    fn recorded_average() {
        for (file, json) in crate::recorded("slide.json") {
            let bytes = std::fs::read(file.replace(".json", ".safetensors")).expect("tensors");
            let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let floats = |name: &str| -> (Vec<usize>, Vec<f32>) {
                let t = tensors.tensor(name).expect("tensor");
                (t.shape().to_vec(), bytemuck::pod_collect_to_vec(t.data()))
            };
            let size = |key: &str| -> Vec<usize> {
                let list = json["case"][key].as_array().expect("size");
                list.iter().map(|v| v.as_u64().expect("number") as usize).collect()
            };
            let (image, crop, stride) = (size("image"), size("crop"), size("stride"));
            let (shape, want) = floats("output.logits");
            let windows = slide(image[0], image[1], crop[0], stride[0]).expect("valid");
            let classes = shape[1];
            let mut map = ScoreMap::new(classes, image[0], image[1]);
            for (i, window) in windows.iter().enumerate() {
                let (shape, scores) = floats(&format!("output.window.{i}"));
                assert_eq!(shape[shape.len() - 2..], [window.h(), window.w()], "window {i}");
                map.add(*window, &scores, window.h(), window.w()).expect("fits");
            }
            assert!(tensors.tensor(&format!("output.window.{}", windows.len())).is_err());
            let got = map.finish().expect("covered");
            dressage_kernels::check::assert_close(&file, &got, &want, 1e-6);
        }
    }
}
