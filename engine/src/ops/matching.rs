//! Inputs and costs of matching queries to targets, the choice of points for mask losses, and
//! class scores. None of these has a gradient.

use dressage_kernels::ops::match_cost::{self, MatchCost};
use dressage_kernels::ops::point_sample::{LabelRows, LabelSample};
use dressage_kernels::ops::resize::{Axis, Mode, Step};
use dressage_kernels::ops::semantic_scores::{self, SemanticScores};
use dressage_kernels::ops::uncertain_points::{self, UncertainPoints};

use super::{expect_shape, shape_error};
use crate::call::{Place, call};
use crate::{DType, Result, Tensor, forbid_gradient};

/// Class masks that are read from label maps without building them.
pub struct LabelMasks<'a> {
    /// Label maps `[b, h, w]`, u8.
    pub labels: &'a Tensor,
    /// Image of each mask, `[r]`, i32; a mask without an image (-1) is zero everywhere.
    pub images: &'a Tensor,
    /// Class of each mask, `[r]`, i32.
    pub classes: &'a Tensor,
}

/// Bilinear values `[r, p]` of class masks at points, f32.
///
/// With `shared`, points are `[b, p, 2]`: one set for the `r / b` consecutive masks of an image,
/// of which those without an image come last. Otherwise they are `[r, p, 2]`. The buffer has room
/// for `capacity` masks.
///
/// # Errors
/// Shapes that do not fit; tensors in different places; a class given twice for one image.
pub fn sample_labels(
    masks: &LabelMasks<'_>,
    points: &Tensor,
    shared: bool,
    capacity: usize,
) -> Result<Tensor> {
    let LabelMasks { labels, images, classes } = *masks;
    let (&[b, h, w], r) = (labels.shape(), images.len()) else {
        return Err(shape_error("sample_labels", "labels", "[b, h, w]", labels));
    };
    expect_shape("sample_labels", "classes", classes, &[r])?;
    let p = points.dim(1);
    expect_shape("sample_labels", "points", points, &[if shared { b } else { r }, p, 2])?;
    if shared && !r.is_multiple_of(b.max(1)) {
        let expected = format!("a multiple of {b} masks");
        return Err(shape_error("sample_labels", "images", expected, images));
    }
    let mut values = Tensor::with_capacity_on(labels.device(), DType::F32, &[r, p], capacity * p)?;
    let sample = LabelSample { h, w, p };
    match labels.device() {
        Some(device) => {
            let rows = LabelRows {
                labels: labels.view()?,
                images: images.view()?,
                classes: classes.view()?,
                points: points.view()?,
                shared,
            };
            sample.rows_gpu(device, rows, values.view_mut()?)?;
        }
        None => {
            let (labels, points) = (labels.data()?, points.data()?);
            let (images, classes) = (images.data()?, classes.data()?);
            let values = values.data_mut::<f32>()?;
            match shared {
                true => sample.shared(labels, images, classes, points, values)?,
                false => sample.each(labels, images, classes, points, values)?,
            }
        }
    }
    Ok(values)
}

/// Predictions and targets of all images, for [`match_cost()`].
pub struct Matching<'a> {
    /// Class logits `[b, q, k + 1]`; the last class is "no object".
    pub cls: &'a Tensor,
    /// Class of each target, `[b * g]`, i32; padding (-1) comes last in each image.
    pub classes: &'a Tensor,
    /// Mask logits at the points, `[b * q, p]`, f32.
    pub x: &'a Tensor,
    /// Values of the target masks at the same points, `[b * g, p]`, f32.
    pub t: &'a Tensor,
    /// Weights of class, cross-entropy and dice cost.
    pub weights: [f64; 3],
}

/// Writes the costs `[b, q, g]` of pairing each query with each target into `costs`, f32, from
/// element `start` on. Padding costs 0.
///
/// # Errors
/// Shapes that do not fit; a label that is not a class; tensors in different places.
pub fn match_cost(of: &Matching<'_>, costs: &mut Tensor, start: usize) -> Result<()> {
    forbid_gradient("match_cost", "cls", of.cls)?;
    let &[b, q, classes] = of.cls.shape() else {
        return Err(shape_error("match_cost", "cls", "[b, q, k + 1]", of.cls));
    };
    let (k, p) = (classes.saturating_sub(1), of.x.last_dim());
    let g = of.classes.len() / b.max(1);
    expect_shape("match_cost", "classes", of.classes, &[b * g])?;
    expect_shape("match_cost", "x", of.x, &[b * q, p])?;
    expect_shape("match_cost", "t", of.t, &[b * g, p])?;
    let (all, n) = (costs.len(), b * q * g);
    if start + n > all {
        let expected = format!("at least {} elements", start + n);
        return Err(shape_error("match_cost", "costs", expected, costs));
    }
    let [class_weight, mask_weight, dice_weight] = of.weights;
    let size = MatchCost { b, q, g, k, p, class_weight, mask_weight, dice_weight };
    if of.cls.device().is_none() {
        size.check_labels(of.classes.data()?)?;
    }
    costs.within(start, n, |costs| {
        call!(of.cls, &size, |M, T| match_cost::Forward::<M, T> {
            cls: M::read(of.cls)?,
            labels: M::read(of.classes)?,
            x: M::read(of.x)?,
            t: M::read(of.t)?,
            cost: M::write(costs)?,
        })
    })
}

/// Points `[r, keep + n_rand, 2]` for mask losses: of the candidates `over` `[r, n_over, 2]` those
/// `keep` whose `logits` `[r, n_over]` are nearest to zero, then `random` `[r, n_rand, 2]`. The
/// buffer has room for `capacity` rows.
///
/// # Errors
/// Shapes that do not fit; more points to keep than there are; tensors in different places.
pub fn uncertain_points(
    logits: &Tensor,
    over: &Tensor,
    random: &Tensor,
    keep: usize,
    capacity: usize,
) -> Result<Tensor> {
    forbid_gradient("uncertain_points", "logits", logits)?;
    let &[r, n_over] = logits.shape() else {
        return Err(shape_error("uncertain_points", "logits", "[r, n]", logits));
    };
    let n_rand = random.dim(1);
    expect_shape("uncertain_points", "over", over, &[r, n_over, 2])?;
    expect_shape("uncertain_points", "random", random, &[r, n_rand, 2])?;
    let size = UncertainPoints { r, n_over, keep, n_rand };
    let (shape, row) = ([r, keep + n_rand, 2], 2 * (keep + n_rand));
    let mut chosen = Tensor::with_capacity_on(logits.device(), DType::F32, &shape, capacity * row)?;
    call!(logits, &size, |M, T| uncertain_points::Select::<M, T> {
        logits: M::read(logits)?,
        points: M::read(over)?,
        random: M::read(random)?,
        out: M::write(&mut chosen)?,
    })?;
    Ok(chosen)
}

/// Scores `[b, k, h, w]`, f32 on a device, from class logits `[b, q, k + 1]` and mask logits `[b, q, h', w']`,
/// which are resized to `size` before the sigmoid (spec mask2former §5). They are not normalised
/// over classes.
///
/// # Errors
/// Shapes that do not fit; a type without a kernel.
pub fn semantic_scores(cls: &Tensor, mask: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let (&[b, q, classes], &[_, _, h, w]) = (cls.shape(), mask.shape()) else {
        return Err(shape_error("semantic_scores", "mask", "[b, q, h, w]", mask));
    };
    let k = classes.saturating_sub(1);
    let y = Axis::new(h, size[0], Mode::Bilinear, Step::Size)?;
    let x = Axis::new(w, size[1], Mode::Bilinear, Step::Size)?;
    let mut scores = cls.empty_sums(&[b, k, size[0], size[1]])?;
    // Elements of one image.
    let (c, m, n) = (q * classes, q * h * w, k * size[0] * size[1]);
    let size = SemanticScores { q, k, y, x };
    for i in 0..b {
        let (cls, mask) = (cls.part(i * c, &[c]), mask.part(i * m, &[m]));
        scores.within(i * n, n, |scores| {
            call!(cls, &size, |M, T| semantic_scores::Forward::<M, T> {
                cls: M::read(&cls)?,
                masks: M::read(&mask)?,
                scores: M::write(scores)?,
            })
        })?;
    }
    Ok(scores)
}
