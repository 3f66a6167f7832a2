//! Mask logits of chosen queries, and sampling of maps at points.

use std::ops::Range;

use dressage_kernels::Write;
use dressage_kernels::call::{Gpu, Launch};
use dressage_kernels::ops::matmul::MatMul;
use dressage_kernels::ops::point_sample::{self, PointSample};
use half::bf16;

use super::shape_error;
use crate::call::{Place, call};
use crate::dtype::kernel;
use crate::{Backward, DType, Edge, Gradients, Result, Tensor, forbid_gradient, record};

/// Samples `maps` `[r, h, w]` bilinearly at `points`, with zeros outside: `[r, p]`.
///
/// Points are (x, y) in [0, 1], in one of three shapes: `[r, p, 2]`; `[p, 2]`, the same for all
/// rows; or `[sets, p, 2]`, where each set is for `r / sets` consecutive rows, such as those of one
/// image. The buffer has room for `capacity` rows.
///
/// # Errors
/// Shapes that do not fit; points that need a gradient; a type without a kernel.
pub fn point_sample(maps: &Tensor, points: &Tensor, capacity: usize) -> Result<Tensor> {
    let &[r, h, w] = maps.shape() else {
        return Err(shape_error("point_sample", "maps", "[r, h, w]", maps));
    };
    let (p, sets) = match *points.shape() {
        [p, 2] => (p, 1),
        [sets, p, 2] if r.is_multiple_of(sets) => (p, sets),
        _ => return Err(shape_error("point_sample", "points", format!("[{r}, p, 2]"), points)),
    };
    forbid_gradient("point_sample", "points", points)?;
    let s = PointSample { r, h, w, p, sets };
    // Coordinates and samples are f32 whatever the type of the maps.
    let exact = maps.dtype().of_sums();
    let mut y = Tensor::with_capacity_on(maps.device(), exact, &[r, p], capacity * p)?;
    call!(maps, &s, |M, T| point_sample::Forward::<M, T> {
        maps: M::read(maps)?,
        points: M::read(points)?,
        values: M::write(&mut y)?,
    })?;
    Ok(record(y, &[maps], || Saved {
        s,
        dtype: maps.dtype(),
        points: points.clone(),
        capacity: capacity * h * w,
        to: maps.edge(),
    }))
}

struct Saved {
    s: PointSample,
    /// Type of the maps.
    dtype: DType,
    points: Tensor,
    capacity: usize,
    to: Edge,
}

impl Backward for Saved {
    fn name(&self) -> &'static str {
        "point_sample"
    }

    fn backward(self: Box<Self>, dy: Tensor, grads: &mut Gradients) -> Result<()> {
        let Saved { s, dtype, points, capacity, to } = &*self;
        let mut dx = Tensor::with_capacity_on(dy.device(), *dtype, &[s.r, s.h, s.w], *capacity)?;
        match (dy.device(), dtype) {
            // The samples of such maps are f32.
            (Some(device), DType::Bf16) => point_sample::Backward::<Gpu, bf16> {
                points: points.view()?,
                dvalues: dy.view()?,
                dmaps: dx.view_mut()?,
            }
            .launch(device, s)?,
            _ => call!(dy, s, |M, T| point_sample::Backward::<M, T> {
                points: M::read(points)?,
                dvalues: M::read(&dy)?,
                dmaps: M::write(&mut dx)?,
            })?,
        }
        grads.add(to, dx)
    }
}

/// Mask logits `[r, n]` of chosen queries: embeddings `e` times pixel embeddings `feature`.
///
/// Row i of `e` `[r, c]` belongs to image `images[i]` (ascending) and is multiplied with that
/// image's part of `feature` `[b, n, c]`. Only matched queries enter the mask losses, so only their
/// rows are differentiated. The full `[b, q, n]` logits never get a gradient.
///
/// # Errors
/// Shapes that do not fit, images not ascending; a type without a kernel.
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
    let shape = [images.len(), n];
    let mut y = Tensor::with_capacity_on(e.device(), e.dtype(), &shape, capacity * n)?;
    for (image, at) in segments(images) {
        let product = MatMul::new(at.len(), n, c).trans_b();
        let (rows, map) = ((e, at.start * c), (feature, image * n * c));
        part_of(&product, rows, map, Write::Over, (&mut y, at.start * n))?;
    }
    Ok(record(y, &[e, feature], || Rows {
        images: images.to_vec(),
        e: e.detach(),
        feature: feature.detach(),
        to: [e.edge(), feature.edge()],
    }))
}

/// Computes the product of parts of tensors; each is given with the index of its first element.
fn part_of(
    product: &MatMul,
    (a, start_a): (&Tensor, usize),
    (b, start_b): (&Tensor, usize),
    write: Write,
    (c, start_c): (&mut Tensor, usize),
) -> Result<()> {
    let MatMul { n, m, k, .. } = *product;
    let (in_a, in_b) = (start_a..start_a + n * k, start_b..start_b + k * m);
    let in_c = start_c..start_c + n * m;
    kernel!("mask_rows", a, T,
        host => {
            let (a, b) = (&a.data::<T>()?[in_a], &b.data::<T>()?[in_b]);
            product.run(1.0, a, b, write, &mut c.data_mut::<T>()?[in_c])
        },
        device => {
            let (a, b) = (a.view::<T>()?.slice(in_a), b.view::<T>()?.slice(in_b));
            match c.dtype() {
                DType::F32 => {
                    device.matmul(product, 1.0, a, b, write, c.view_mut::<f32>()?.slice(in_c))
                }
                _ => device.matmul(product, 1.0, a, b, write, c.view_mut::<T>()?.slice(in_c)),
            }
        },
    )
}

/// Runs of equal images and their row ranges.
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
        let (n, c) = (self.feature.dim(1), self.feature.dim(2));
        let (e, maps, runs) = (&self.e, &self.feature, segments(&self.images));
        if self.to[0].wants() {
            let mut de = e.empty_like(e.shape())?;
            for (image, at) in &runs {
                let product = MatMul::new(at.len(), c, n);
                let (rows, map) = ((&dy, at.start * n), (maps, image * n * c));
                part_of(&product, rows, map, Write::Over, (&mut de, at.start * c))?;
            }
            grads.add(&self.to[0], de)?;
        }
        grads.accumulate_product(&self.to[1], |df, write| {
            if write == Write::Over && runs.len() < self.feature.dim(0) {
                // Images without rows are not written below.
                *df = Tensor::zeros_on(df.device(), df.dtype(), df.shape())?;
            }
            for (image, at) in &runs {
                let product = MatMul::new(n, c, at.len()).trans_a();
                let (rows, into) = ((e, at.start * c), (&mut *df, image * n * c));
                part_of(&product, (&dy, at.start * n), rows, write, into)?;
            }
            Ok(())
        })
    }
}
