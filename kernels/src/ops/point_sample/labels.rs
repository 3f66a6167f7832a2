//! Sampling of class masks without building them: the bilinear value of `label == class`.

use rayon::prelude::*;

use super::{Taps, check_map};
use crate::{KernelError, Real, Result, check_len, dry_run};

/// Sizes of a sampling of label maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelSample {
    /// Rows of a label map.
    pub h: usize,
    /// Columns of a label map.
    pub w: usize,
    /// Points.
    pub p: usize,
}

impl LabelSample {
    /// Samples masks whose points are shared by the rows of an image. `labels` is `[b, h, w]`,
    /// `images` and `classes` `[b * g]`, `points` `[b, p, 2]`; writes `values` `[b * g, p]`.
    ///
    /// A row whose image is negative is padding, which comes last in its image and is 0. Each point
    /// is looked up once for all classes of an image.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; a class given twice; a row of another image.
    pub fn shared<T: Real>(
        &self,
        labels: &[u8],
        images: &[i32],
        classes: &[i32],
        points: &[T],
        values: &mut [T],
    ) -> Result<()> {
        check_map("sample_labels", self.h, self.w)?;
        let (r, map) = (images.len(), self.h * self.w);
        let b = labels.len() / map;
        check_len("sample_labels", "labels", labels, b * map)?;
        check_len("sample_labels", "classes", classes, r)?;
        check_len("sample_labels", "points", points, b * self.p * 2)?;
        check_len("sample_labels", "values", values, r * self.p)?;
        let g = r / b.max(1);
        if dry_run::skip("sample_labels") || g == 0 || self.p == 0 {
            return Ok(());
        }
        let rows = images.chunks_exact(g).zip(classes.chunks_exact(g)).enumerate();
        for ((i, (images, classes)), values) in rows.zip(values.chunks_exact_mut(g * self.p)) {
            let filled = images.iter().take_while(|&&image| image >= 0).count();
            if images[..filled].iter().any(|&image| image as usize != i) {
                let what = format!("rows of image {i} name other images");
                return Err(KernelError::Size { op: "sample_labels", what });
            }
            let points = &points[i * self.p * 2..][..self.p * 2];
            self.one_map(&labels[i * map..][..map], &classes[..filled], points, values)?;
        }
        Ok(())
    }

    /// Samples the masks of `classes` of one label map; rows after them are 0.
    fn one_map<T: Real>(
        &self,
        labels: &[u8],
        classes: &[i32],
        points: &[T],
        values: &mut [T],
    ) -> Result<()> {
        let mut row_of = [None; 256];
        for (row, &class) in classes.iter().enumerate() {
            let Ok(class) = u8::try_from(class) else { continue };
            if row_of[usize::from(class)].replace(row * self.p).is_some() {
                let what = format!("class {class} is asked for twice");
                return Err(KernelError::Size { op: "sample_labels", what });
            }
        }
        values.fill(T::ZERO);
        for (j, point) in points.chunks_exact(2).enumerate() {
            let Some(taps) = Taps::at(self.h, self.w, point[0], point[1]) else { continue };
            for (at, weight) in taps.each(self.h, self.w) {
                let row = at.and_then(|at| row_of[usize::from(labels[at])]);
                if let Some(row) = row {
                    values[row + j] += weight;
                }
            }
        }
        Ok(())
    }

    /// Samples the mask of `classes[i]` in label map `images[i]` at the points of row `i`. A row
    /// whose image is negative is 0.
    ///
    /// `labels` is `[b, h, w]`, `points` `[r, p, 2]`; writes `values` `[r, p]`.
    ///
    /// # Errors
    /// A slice whose length does not match the sizes; an image that does not exist.
    pub fn each<T: Real>(
        &self,
        labels: &[u8],
        images: &[i32],
        classes: &[i32],
        points: &[T],
        values: &mut [T],
    ) -> Result<()> {
        check_map("sample_labels", self.h, self.w)?;
        let (r, map) = (images.len(), self.h * self.w);
        let b = labels.len() / map;
        check_len("sample_labels", "labels", labels, b * map)?;
        check_len("sample_labels", "classes", classes, r)?;
        check_len("sample_labels", "points", points, r * self.p * 2)?;
        check_len("sample_labels", "values", values, r * self.p)?;
        if dry_run::skip("sample_labels") {
            return Ok(());
        }
        if let Some(image) = images.iter().find(|&&image| i64::from(image) >= b as i64) {
            let what = format!("image {image} of {b} label maps");
            return Err(KernelError::Size { op: "sample_labels", what });
        }
        if self.p == 0 {
            return Ok(());
        }
        let rows = values.par_chunks_mut(self.p).zip(points.par_chunks(self.p * 2));
        rows.zip(images.par_iter().zip(classes)).for_each(|((values, points), (&i, &class))| {
            let (Ok(i), Ok(class)) = (usize::try_from(i), u8::try_from(class)) else {
                values.fill(T::ZERO);
                return;
            };
            let labels = &labels[i * map..][..map];
            for (value, point) in values.iter_mut().zip(points.chunks_exact(2)) {
                *value = self.value(labels, class, point[0], point[1]);
            }
        });
        Ok(())
    }

    /// Bilinear value of `label == class` at one point.
    #[inline(always)]
    fn value<T: Real>(&self, labels: &[u8], class: u8, x: T, y: T) -> T {
        let Some(taps) = Taps::at(self.h, self.w, x, y) else { return T::ZERO };
        let mut value = T::ZERO;
        for (at, weight) in taps.each(self.h, self.w) {
            if at.is_some_and(|at| labels[at] == class) {
                value += weight;
            }
        }
        value
    }
}
