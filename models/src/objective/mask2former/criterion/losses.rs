//! Losses of matched pairs.

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, no_grad, ops, range};

use super::table::Matched;
use super::{AssignmentTable, Candidate, Criterion, PointSource, Terms, check, shape};
use crate::objective::Targets;
use crate::{ModelError, Result};

impl Criterion {
    /// Computes the losses of the assignment that was uploaded last. On a device kernel launches,
    /// sizes and addresses are the same in every step, and the call does not wait.
    ///
    /// # Errors
    /// Shapes that do not fit; tensors in different places; points that the source cannot deliver;
    /// a failure of the device.
    pub fn terms(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        assigned: &AssignmentTable,
        points: &mut dyn PointSource,
    ) -> Result<Terms> {
        check(self, candidates, targets)?;
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
        let (mut parts, mut chosen) = (Vec::new(), Vec::new());
        for (l, candidate) in candidates.iter().enumerate() {
            let matched = assigned.layer(l)?;
            let (labels, weights) = (&matched.labels, assigned.class_weights());
            let weight = self.config.weights[0];
            let divisor = matched.class_divisor.as_ref();
            let cls = ops::class_loss_at(&candidate.cls, labels, weights, divisor, weight)?;
            let masks = self.mask_term(l, candidate, targets, &matched, points)?;
            let (loss, at) = masks.unzip();
            parts.push((cls, loss));
            chosen.push(at);
        }
        let (total, values) = total(&parts)?;
        Ok(Terms { total, values, points: chosen })
    }

    /// Mask and dice loss `[2]` and the points they read; `None` without pairs: both are then zero.
    fn mask_term(
        &self,
        l: usize,
        candidate: &Candidate,
        targets: &Targets,
        matched: &Matched,
        points: &mut dyn PointSource,
    ) -> Result<Option<(Tensor, Tensor)>> {
        if matched.queries.is_empty() {
            return Ok(None);
        }
        let capacity = matched.slots.capacity;
        let rows = candidate.rows(matched)?;
        let at = with_category(Category::Data, || {
            no_grad(|| self.choose_points(l, &rows.detach(), matched, points))
        })?;
        let x = ops::point_sample(&rows, &at, capacity)?;
        let masks = targets.masks(&matched.images, &matched.classes);
        let t = ops::sample_labels(&masks, &at, false, capacity)?;
        let (num, pair_weights) = (&matched.num, matched.weights.as_ref());
        let [_, mask_weight, dice_weight] = self.config.weights;
        let weights = [mask_weight, dice_weight];
        let loss = ops::mask_loss(&x, &t, num, pair_weights, weights, capacity)?;
        Ok(Some((loss, at)))
    }

    /// Chooses the share `importance` of the points (published: three quarters) by uncertainty.
    /// Their logits are nearest to zero; the other points are random.
    fn choose_points(
        &self,
        l: usize,
        rows: &Tensor,
        matched: &Matched,
        points: &mut dyn PointSource,
    ) -> Result<Tensor> {
        let p = self.config.points;
        let n_over = (p as f64 * self.config.oversample) as usize;
        let keep = (p as f64 * self.config.importance) as usize;
        let over = points.oversample(l, &matched.slots, n_over)?;
        let random = points.random(l, &matched.slots, p - keep)?;
        let capacity = matched.slots.capacity;
        let logits = ops::point_sample(rows, &over, capacity)?;
        Ok(ops::uncertain_points(&logits, &over, &random, keep, capacity)?)
    }
}

impl Candidate {
    /// Mask logits `[r, h, w]` of the rows of a table, differentiable; zeros in padding.
    fn rows(&self, matched: &Matched) -> Result<Tensor> {
        let &[b, q, h, w] = self.mask.shape() else { return Err(shape(self)) };
        let (r, capacity) = (matched.queries.len(), matched.slots.capacity);
        let gather = |x: &Tensor| match &matched.pairs {
            Some(pairs) => {
                let queries: Vec<usize> = pairs.iter().map(|p| p.image * q + p.query).collect();
                ops::gather_rows(x, &queries, capacity)
            }
            None => ops::gather_rows_at(x, &matched.queries),
        };
        let Some((e, feature)) = &self.embed else {
            return Ok(gather(&ops::reshape(&self.mask, &[b * q, h, w])?)?);
        };
        let c = e.last_dim();
        let e = gather(&ops::reshape(e, &[b * q, c])?)?;
        let rows = match &matched.pairs {
            Some(pairs) => {
                let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
                ops::mask_rows(&e, feature, &images, capacity)?
            }
            None => {
                // The slots of an image are contiguous, so this is one batched matrix product.
                let e = ops::reshape(&e, &[b, r / b.max(1), c])?;
                ops::matmul(&e, feature, false, true)?
            }
        };
        Ok(ops::reshape(&rows, &[r, h, w])?)
    }
}

/// Sum of the class and mask losses of all predictions, and each of them `[3 * layers]`.
fn total(parts: &[(Tensor, Option<Tensor>)]) -> Result<(Tensor, Tensor)> {
    if parts.iter().any(|(cls, _)| cls.device().is_some()) {
        let mut each = Vec::new();
        for (cls, masks) in parts {
            each.push(ops::reshape(cls, &[1])?);
            each.extend(masks.clone());
        }
        let values = ops::concat(&each.iter().collect::<Vec<_>>(), 0)?;
        return Ok((ops::total(&[&values])?, values.detach()));
    }
    let mut values = Vec::new();
    for (cls, masks) in parts {
        values.push(cls.item::<f32>()?);
        match masks {
            Some(masks) => values.extend_from_slice(masks.data()?),
            None => values.extend([0.0; 2]),
        }
    }
    let each = parts.iter().flat_map(|(cls, masks)| [Some(cls), masks.as_ref()]);
    let total = ops::total(&each.flatten().collect::<Vec<_>>())?;
    Ok((total, Tensor::from_slice(&values, &[values.len()])?))
}
