//! Costs and losses of predictions on a device. Kernel launches depend on sizes only: targets are
//! padded to the number of classes, pairs to the slots of a [`DeviceAssignment`].

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Device, Tensor, no_grad, ops, range};
use dressage_kernels::ops::match_cost::MatchCost;
use dressage_kernels::ops::point_sample::{LabelRows, LabelSample};
use dressage_kernels::ops::uncertain_points::UncertainPoints;
use half::bf16;

use super::table::Matched;
use super::{Candidate, Criterion, DeviceAssignment, PointSource, Targets, Terms};
use crate::{ModelError, Result};

/// One tensor with the costs `[b, q, k]` of each prediction in turn, then `previous`.
pub(super) fn costs(
    criterion: &Criterion,
    device: &Device,
    candidates: &[Candidate],
    targets: &Targets,
    points: &mut dyn PointSource,
    previous: Option<&Tensor>,
) -> Result<Tensor> {
    check(criterion, candidates, targets)?;
    let _range = range("costs");
    let (b, k) = (targets.classes().len(), targets.k());
    let counts: Vec<usize> = candidates.iter().map(|c| b * c.cls.dim(1) * k).collect();
    let costs: usize = counts.iter().sum();
    let extra = previous.map_or(0, Tensor::len);
    let mut all = Tensor::empty_on(Some(device), DType::F32, &[costs + extra])?;
    let mut start = 0;
    for (l, (candidate, n)) in candidates.iter().zip(counts).enumerate() {
        let range = start..start + n;
        layer_costs(criterion, device, (l, candidate), targets, points, (&mut all, range))?;
        start += n;
    }
    if let Some(previous) = previous {
        let to = all.view_mut::<f32>()?.slice(costs..costs + extra);
        device.copy(previous.view::<f32>()?, to)?;
    }
    Ok(all)
}

/// Writes the costs of one prediction into a range of `all`. Four kernel launches and those of the
/// points.
fn layer_costs(
    criterion: &Criterion,
    device: &Device,
    (l, candidate): (usize, &Candidate),
    targets: &Targets,
    points: &mut dyn PointSource,
    (all, range): (&mut Tensor, std::ops::Range<usize>),
) -> Result<()> {
    let &[b, q, h, w] = candidate.mask.shape() else { return Err(shape(candidate)) };
    let (k, p) = (targets.k(), criterion.config.points);
    let at = points.assign_on(device, l, b, p)?;
    let maps = ops::reshape(&candidate.mask.detach(), &[b * q, h, w])?;
    let x = ops::point_sample(&maps, &at, b * q)?;
    let places = targets.on(device)?;
    let t = sample_labels(device, targets, &places.images, &places.classes, &at, true)?;
    let [class_weight, mask_weight, dice_weight] = criterion.config.weights;
    let size = MatchCost { q, g: k, k, p, class_weight, mask_weight, dice_weight };
    let (labels, x, t) = (places.classes.view::<i32>()?, x.view::<f32>()?, t.view::<f32>()?);
    let cost = all.view_mut::<f32>()?.slice(range);
    let cls = &candidate.cls;
    match cls.dtype() {
        DType::Bf16 => size.compute_gpu(device, b, cls.view::<bf16>()?, labels, x, t, cost)?,
        _ => size.compute_gpu(device, b, cls.view::<f32>()?, labels, x, t, cost)?,
    }
    Ok(())
}

/// Values `[r, p]` of the masks `label == class` of `r` targets. Points are `[b, p, 2]`, one set
/// per image (`shared`), or `[r, p, 2]`, one set per target.
fn sample_labels(
    device: &Device,
    targets: &Targets,
    images: &Tensor,
    classes: &Tensor,
    points: &Tensor,
    shared: bool,
) -> Result<Tensor> {
    let labels = targets.labels();
    let p = points.dim(1);
    let mut values = Tensor::empty_on(Some(device), DType::F32, &[images.len(), p])?;
    let rows = LabelRows {
        labels: labels.view()?,
        images: images.view()?,
        classes: classes.view()?,
        points: points.view()?,
        shared,
    };
    let sample = LabelSample { h: labels.dim(1), w: labels.dim(2), p };
    sample.rows_gpu(device, rows, values.view_mut()?)?;
    Ok(values)
}

/// Losses of all predictions for an assignment on the device.
pub(super) fn terms(
    criterion: &Criterion,
    device: &Device,
    candidates: &[Candidate],
    targets: &Targets,
    assigned: &DeviceAssignment,
    points: &mut dyn PointSource,
) -> Result<Terms> {
    check(criterion, candidates, targets)?;
    let _range = range("losses");
    let b = targets.classes().len();
    let sizes = [candidates.len(), b, candidates.first().map_or(0, |c| c.cls.dim(1))];
    if sizes != assigned.sizes() {
        let text = format!(
            "{sizes:?} predictions, images and queries do not fit an assignment of {:?}",
            assigned.sizes()
        );
        return Err(ModelError::Config(text));
    }
    let [class_weight, mask_weight, dice_weight] = criterion.config.weights;
    let (mut parts, mut chosen) = (Vec::new(), Vec::new());
    for (l, candidate) in candidates.iter().enumerate() {
        let matched = assigned.layer(l)?;
        let (labels, weights) = (&matched.labels, assigned.class_weights());
        let cls = ops::class_loss_at(&candidate.cls, labels, weights, class_weight)?;
        parts.push(ops::reshape(&cls, &[1])?);
        let rows = slot_rows(candidate, &matched)?;
        let at = with_category(Category::Data, || {
            no_grad(|| choose_points(criterion, device, l, &rows.detach(), &matched, points))
        })?;
        let x = ops::point_sample(&rows, &at, rows.dim(0))?;
        let t = sample_labels(device, targets, &matched.images, &matched.classes, &at, false)?;
        let weights = [mask_weight, dice_weight];
        parts.push(ops::mask_loss_at(&x, &t, &matched.num, &matched.weights, weights)?);
        chosen.push(at);
    }
    let values = ops::concat(&parts.iter().collect::<Vec<_>>(), 0)?;
    let total = ops::total(&[&values])?;
    Ok(Terms { total, values: values.detach(), points: chosen })
}

/// Mask logits `[b s, h, w]` of the slots, differentiable; zeros in padding slots.
fn slot_rows(candidate: &Candidate, matched: &Matched) -> Result<Tensor> {
    let &[b, q, h, w] = candidate.mask.shape() else { return Err(shape(candidate)) };
    let slots = matched.queries.len();
    let Some((e, feature)) = &candidate.embed else {
        let flat = ops::reshape(&candidate.mask, &[b * q, h, w])?;
        return Ok(ops::gather_rows_at(&flat, &matched.queries)?);
    };
    let c = e.last_dim();
    let e = ops::gather_rows_at(&ops::reshape(e, &[b * q, c])?, &matched.queries)?;
    // The slots of an image are contiguous, so this is one batched matrix product.
    let e = ops::reshape(&e, &[b, slots / b.max(1), c])?;
    Ok(ops::reshape(&ops::matmul(&e, feature, false, true)?, &[slots, h, w])?)
}

/// Chooses points `[b s, p, 2]`, the share `importance` (published: three quarters) by uncertainty.
/// Their logits are nearest to zero; the other points are random.
fn choose_points(
    criterion: &Criterion,
    device: &Device,
    l: usize,
    rows: &Tensor,
    matched: &Matched,
    points: &mut dyn PointSource,
) -> Result<Tensor> {
    let (r, size) = (rows.dim(0), criterion.selection(rows.dim(0)));
    let over = points.oversample_on(l, &matched.slots, size.n_over)?;
    let random = points.random_on(l, &matched.slots, size.n_rand)?;
    let logits = ops::point_sample(rows, &over, r)?;
    let UncertainPoints { keep, n_rand, .. } = size;
    let mut chosen = Tensor::empty_on(Some(device), DType::F32, &[r, keep + n_rand, 2])?;
    let (logits, over, random) = (logits.view()?, over.view()?, random.view()?);
    size.select_gpu(device, logits, over, random, chosen.view_mut()?)?;
    Ok(chosen)
}

/// Checks that predictions, targets and settings agree in their numbers of images and classes.
fn check(criterion: &Criterion, candidates: &[Candidate], targets: &Targets) -> Result<()> {
    let (b, k) = (targets.classes().len(), criterion.config.classes);
    if targets.k() != k {
        let text = format!("targets of {} classes, losses of {k}", targets.k());
        return Err(ModelError::Config(text));
    }
    for candidate in candidates {
        let fits = matches!(*candidate.mask.shape(), [images, q, _, _]
            if images == b && candidate.cls.shape() == [b, q, k + 1]);
        if !fits {
            return Err(shape(candidate));
        }
    }
    Ok(())
}

fn shape(candidate: &Candidate) -> ModelError {
    ModelError::Config(format!(
        "a prediction of classes {:?} and masks {:?} does not fit the targets; [b, q, k + 1] and \
         [b, q, h, w] are expected",
        candidate.cls.shape(),
        candidate.mask.shape()
    ))
}
