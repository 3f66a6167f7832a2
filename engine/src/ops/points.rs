//! Mask logits of chosen queries, and reading maps at points.

use std::ops::Range;

use dressage_kernels::matmul::{Beta, MatMul};
use dressage_kernels::point_sample::PointSample;

use super::shape_error;
use crate::{Backward, Edge, Float, Gradients, Result, Tensor, floats, forbid_gradient, record};

/// Reads `maps` `[r, h, w]` bilinearly, zero outside, at `points` `[r, p, 2]` (x, y in [0, 1];
/// `[p, 2]` for all rows alike): `[r, p]`. The buffer is taken for `capacity` rows.
///
/// # Errors
/// Shapes that do not fit; points that need a gradient; a type other than f32 and f64.
pub fn point_sample(maps: &Tensor, points: &Tensor, capacity: usize) -> Result<Tensor> {
    let &[r, h, w] = maps.shape() else {
        return Err(shape_error("point_sample", "maps", "[r, h, w]", maps));
    };
    let (p, shared) = match *points.shape() {
        [p, 2] => (p, true),
        [rows, p, 2] if rows == r => (p, false),
        _ => return Err(shape_error("point_sample", "points", format!("[{r}, p, 2]"), points)),
    };
    forbid_gradient("point_sample", "points", points)?;
    let size = PointSample { r, h, w, p, shared };
    floats!("point_sample", maps, T => {
        let mut y = Tensor::with_capacity(maps.dtype(), &[r, p], capacity * p);
        size.forward(maps.data::<T>()?, points.data()?, y.data_mut()?)?;
        let capacity = capacity * h * w;
        Ok(record(y, &[maps], || Saved { size, points: points.clone(), capacity, to: maps.edge() }))
    })
}

struct Saved {
    size: PointSample,
    points: Tensor,
    capacity: usize,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "point_sample"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let PointSample { r, h, w, .. } = self.size;
        floats!("point_sample", dy, T => {
            let mut dx = Tensor::with_capacity(dy.dtype(), &[r, h, w], self.capacity);
            self.size.backward(self.points.data::<T>()?, dy.data()?, dx.data_mut()?)?;
            grads.add(&self.to, dx)
        })
    }
}

/// Mask logits of chosen queries: embeddings `e` `[r, c]`, row i belonging to image `images[i]`
/// (ascending), times that image's pixel embeddings `feature` `[b, n, c]`: `[r, n]`. Only matched
/// queries enter the mask losses, so only their rows are differentiated; the full `[b, q, n]`
/// logits never get a gradient.
///
/// # Errors
/// Shapes that do not fit, images not ascending; a type other than f32 and f64.
pub fn mask_rows(
    e: &Tensor,
    feature: &Tensor,
    images: &[usize],
    capacity: usize,
) -> Result<Tensor> {
    let &[b, n, c] = feature.shape() else {
        return Err(shape_error("mask_rows", "feature", "[b, n, c]", feature));
    };
    if e.shape() != [images.len(), c] {
        return Err(shape_error("mask_rows", "e", format!("[{}, {c}]", images.len()), e));
    }
    if !images.is_sorted() || images.last().is_some_and(|&i| i >= b) {
        return Err(shape_error("mask_rows", "feature", "ascending images of the batch", feature));
    }
    floats!("mask_rows", e, T => {
        let mut y = Tensor::with_capacity(e.dtype(), &[images.len(), n], capacity * n);
        let (rows, maps, out) = (e.data::<T>()?, feature.data::<T>()?, y.data_mut::<T>()?);
        for (image, at) in segments(images) {
            let product = MatMul::new(at.len(), n, c).trans_b();
            let map = &maps[image * n * c..][..n * c];
            let out = &mut out[at.start * n..at.end * n];
            product.run(1.0, &rows[at.start * c..at.end * c], map, Beta::Overwrite, out)?;
        }
        Ok(record(y, &[e, feature], || Rows {
            images: images.to_vec(),
            e: e.detach(),
            feature: feature.detach(),
            to: [e.edge(), feature.edge()],
        }))
    })
}

/// Runs of equal images and the rows they span.
fn segments(images: &[usize]) -> Vec<(usize, Range<usize>)> {
    let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
    for (i, &image) in images.iter().enumerate() {
        match runs.last_mut() {
            Some((same, rows)) if *same == image => rows.end = i + 1,
            _ => runs.push((image, i..i + 1)),
        }
    }
    runs
}

struct Rows {
    images: Vec<usize>,
    e: Tensor,
    feature: Tensor,
    to: [Edge; 2],
}

impl Backward for Rows {
    fn name(&self) -> &'static str {
        "mask_rows"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        floats!("mask_rows", dy, T => self.run::<T>(&dy, grads))
    }
}

impl Rows {
    fn run<T: Float>(&self, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let (n, c) = (self.feature.dim(1), self.feature.dim(2));
        let (e, maps, dy) = (self.e.data::<T>()?, self.feature.data::<T>()?, dy.data::<T>()?);
        let runs = segments(&self.images);
        if self.to[0].wants() {
            let mut de = Tensor::empty::<T>(self.e.shape());
            let out = de.data_mut::<T>()?;
            for (image, at) in &runs {
                let product = MatMul::new(at.len(), c, n);
                let map = &maps[image * n * c..][..n * c];
                let out = &mut out[at.start * c..at.end * c];
                product.run(1.0, &dy[at.start * n..at.end * n], map, Beta::Overwrite, out)?;
            }
            grads.add(&self.to[0], de)?;
        }
        grads.accumulate::<T>(&self.to[1], |df| {
            for (image, at) in &runs {
                let product = MatMul::new(n, c, at.len()).trans_a();
                let df = &mut df[image * n * c..][..n * c];
                let rows = &e[at.start * c..at.end * c];
                product.run(1.0, &dy[at.start * n..at.end * n], rows, Beta::Add, df)?;
            }
            Ok(())
        })
    }
}
