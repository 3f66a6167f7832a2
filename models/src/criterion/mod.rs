//! Matching and losses of Mask2Former (spec mask2former §4).
//!
//! A step has three phases, on the host as on a device:
//!
//! 1. [`Criterion::costs`] computes the cost of each pair of query and target;
//! 2. [`Criterion::assign`] finds the cheapest assignment, always on the host. With a device this
//!    is the only wait of the step: one copy to the host contains the costs and the loss of the
//!    previous step;
//! 3. [`Criterion::losses`] compares the matched pairs at random points.
//!
//! If an image has more targets than there are queries, the most expensive targets stay unmatched.
//! They do not count in the losses or in the number of masks.
//!
//! [`Criterion::loss`] runs the three phases. On a device, no kernel launch or allocation of the
//! first and the third phase depends on the targets. The targets of an image are padded to the
//! number of classes, and pairs to the slots of a [`DeviceAssignment`]. Values that change from
//! step to step are read from fixed addresses ([`Targets::overwrite`],
//! [`DeviceAssignment::upload`], [`DevicePoints::set_step`]). [`Criterion::terms`] is the third
//! phase for an assignment that stays on the device.

mod device;
mod points;
mod results;
mod table;
mod targets;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Device, Tensor, no_grad, ops, range};
use dressage_kernels::ops::match_cost::MatchCost;
use dressage_kernels::ops::point_sample::LabelSample;
use dressage_kernels::ops::uncertain_points::UncertainPoints;

use crate::head::HeadOutput;
use crate::matching::{Costs, match_all};
use crate::{ModelError, Result};
pub use points::{DevicePoints, PointSource, RandomPoints, Slots};
use results::mask_count;
pub use results::{Assignment, LayerLoss, LayerMatch, Loss, MatchedPair, Terms, named_terms};
pub use table::DeviceAssignment;
pub use targets::{IGNORE, Targets};

/// Settings of the losses.
#[derive(Debug, Clone, PartialEq)]
pub struct CriterionConfig {
    /// Classes k, without "no object".
    pub classes: usize,
    /// Points P per mask.
    pub points: usize,
    /// Candidates for the uncertain points, as a multiple of `points`.
    pub oversample: f64,
    /// Share of the points chosen by uncertainty.
    pub importance: f64,
    /// Class weight of "no object".
    pub no_object: f64,
    /// Weights of the class, mask and dice terms, in the losses and in the costs of matching.
    pub weights: [f64; 3],
}

impl CriterionConfig {
    /// The published settings.
    pub fn published(classes: usize) -> CriterionConfig {
        CriterionConfig {
            classes,
            points: 12544,
            oversample: 3.0,
            importance: 0.75,
            no_object: 0.1,
            weights: [2.0, 5.0, 5.0],
        }
    }
}

/// One prediction as input of the criterion.
pub struct Candidate {
    /// Class logits `[b, q, k + 1]`.
    pub cls: Tensor,
    /// Mask logits `[b, q, h, w]`; read without gradient if `embed` is given.
    pub mask: Tensor,
    /// Mask embeddings `[b, q, m]` and pixel embeddings `[b, h * w, m]`; their product is `mask`.
    pub embed: Option<(Tensor, Tensor)>,
}

impl Candidate {
    /// The predictions of a head.
    pub fn of(output: &HeadOutput) -> Vec<Candidate> {
        let one = |p: &crate::head::Prediction| Candidate {
            cls: p.cls.clone(),
            mask: p.mask.detach(),
            embed: Some((p.mask_embed.clone(), output.mask_feature.clone())),
        };
        output.predictions.iter().map(one).collect()
    }

    /// Mask logits `[r, h, w]` of matched pairs, differentiable.
    fn rows(&self, pairs: &[MatchedPair], capacity: usize) -> Result<Tensor> {
        let (q, h, w) = (self.mask.dim(1), self.mask.dim(2), self.mask.dim(3));
        let indices: Vec<usize> = pairs.iter().map(|p| p.image * q + p.query).collect();
        let rows = match &self.embed {
            Some((e, feature)) => {
                let flat = ops::reshape(e, &[e.dim(0) * q, e.last_dim()])?;
                let e = ops::gather_rows(&flat, &indices, capacity)?;
                let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
                ops::mask_rows(&e, feature, &images, capacity)?
            }
            None => {
                let flat = ops::reshape(&self.mask, &[self.mask.dim(0) * q, h, w])?;
                ops::gather_rows(&flat, &indices, capacity)?
            }
        };
        Ok(ops::reshape(&rows, &[pairs.len(), h, w])?)
    }
}

/// Costs of all predictions, in the same memory as the predictions. On a device the kernels that
/// compute them may still run.
#[derive(Debug)]
pub struct StepCosts {
    /// Queries of each prediction.
    queries: Vec<usize>,
    costs: CostTables,
}

#[derive(Debug)]
enum CostTables {
    /// `[q, g]` by prediction and image, and the previous values.
    Host(Vec<Vec<Vec<f32>>>, Vec<f32>),
    /// `[b, q, k]` by prediction, then the previous values.
    Device(Tensor),
}

/// Computes matching and losses.
#[derive(Debug, Clone)]
pub struct Criterion {
    /// Settings.
    pub config: CriterionConfig,
}

/// The device of the predictions; `None` for the host.
fn place(candidates: &[Candidate]) -> Option<&Device> {
    candidates.first().and_then(|c| c.cls.device())
}

impl Criterion {
    /// Losses of all predictions against the targets: [`Criterion::costs`], [`Criterion::assign`]
    /// and [`Criterion::losses`]. On a device the call waits once.
    ///
    /// # Errors
    /// A cost that is not finite, with layer, image, query and target; shapes that do not fit;
    /// targets in other memory than the predictions.
    pub fn loss(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        points: &mut dyn PointSource,
    ) -> Result<Loss> {
        let costs = self.costs(candidates, targets, points, None)?;
        let (assignment, _) = self.assign(&costs, targets)?;
        self.losses(candidates, targets, assignment, points)
    }

    /// Computes the costs of every query for every target. On a device all work is queued. The
    /// costs are written to one buffer, followed by a copy of `previous`: values of the previous
    /// step that the host reads back, usually its [`Loss::values`].
    ///
    /// # Errors
    /// Shapes that do not fit; targets in other memory than the predictions; points that the source
    /// cannot deliver; a failure of the device.
    pub fn costs(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        points: &mut dyn PointSource,
        previous: Option<&Tensor>,
    ) -> Result<StepCosts> {
        let costs = no_grad(|| match place(candidates) {
            Some(device) => device::costs(self, device, candidates, targets, points, previous)
                .map(CostTables::Device),
            None => {
                let images = 0..targets.classes().len();
                let layer = |(l, c): (usize, &Candidate)| {
                    images.clone().map(|i| self.image_costs(l, i, c, targets, points)).collect()
                };
                let costs = candidates.iter().enumerate().map(layer).collect::<Result<_>>()?;
                let previous = previous.map_or(Ok(&[][..]), Tensor::data::<f32>)?;
                Ok(CostTables::Host(costs, previous.to_vec()))
            }
        })?;
        Ok(StepCosts { queries: candidates.iter().map(|c| c.cls.dim(1)).collect(), costs })
    }

    /// The cheapest assignment of queries to targets, and the `previous` values stored with the
    /// costs. On a device this is the only wait of a step.
    ///
    /// # Errors
    /// A cost that is not finite, with layer, image, query and target; a failure of the device,
    /// also of a kernel launched earlier.
    pub fn assign(&self, costs: &StepCosts, targets: &Targets) -> Result<(Assignment, Vec<f32>)> {
        let queries = &costs.queries;
        let (costs, previous) = match &costs.costs {
            CostTables::Host(costs, previous) => (costs.clone(), previous.clone()),
            CostTables::Device(table) => {
                let all = table.to_host()?;
                unpadded(all.data()?, queries, targets)
            }
        };
        let mut problems = Vec::new();
        for (layer, images) in costs.iter().enumerate() {
            for (image, costs) in images.iter().enumerate() {
                let targets = targets.classes()[image].len();
                problems.push(Costs { layer, image, queries: queries[layer], targets, costs });
            }
        }
        let solved = match_all(&problems).map_err(|e| ModelError::Matching(e.to_string()))?;
        let mut solved = solved.into_iter();
        let pair_up = |costs: Vec<Vec<f32>>| {
            let mut pairs = Vec::new();
            for (image, classes) in targets.classes().iter().enumerate() {
                let found = solved.next().map(|a| a.pairs()).unwrap_or_default();
                let pair =
                    |(query, t): (usize, usize)| MatchedPair { image, query, class: classes[t] };
                pairs.extend(found.into_iter().map(pair));
            }
            LayerMatch { costs, pairs }
        };
        Ok((Assignment { layers: costs.into_iter().map(pair_up).collect() }, previous))
    }

    /// Computes the losses of an assignment. On a device, one copy uploads the assignment into a
    /// new table for this step.
    ///
    /// # Errors
    /// Shapes that do not fit; points that the source cannot deliver; a failure of the device.
    pub fn losses(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        assignment: Assignment,
        points: &mut dyn PointSource,
    ) -> Result<Loss> {
        let Some(device) = place(candidates) else {
            return self.host_losses(candidates, targets, assignment, points);
        };
        let queries = candidates.first().map_or(0, |c| c.cls.dim(1));
        let sizes = [candidates.len(), targets.classes().len(), queries];
        let assigning = range("losses");
        let mut table = DeviceAssignment::new(device, &self.config, sizes)?;
        table.upload(&assignment)?;
        drop(assigning);
        let terms = self.terms(candidates, targets, &table, points)?;
        let layer = |(of, at): (LayerMatch, Tensor)| LayerLoss {
            costs: of.costs,
            pairs: of.pairs,
            points: Some(at),
        };
        let layers = assignment.layers.into_iter().zip(terms.points).map(layer).collect();
        Ok(Loss { total: terms.total, values: terms.values, layers })
    }

    /// Computes the losses of the assignment that was uploaded last. Kernel launches, sizes and
    /// addresses are the same in every step. The call does not wait.
    ///
    /// # Errors
    /// Predictions in host memory; shapes that do not fit; points that the source cannot deliver; a
    /// failure of the device.
    pub fn terms(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        assigned: &DeviceAssignment,
        points: &mut dyn PointSource,
    ) -> Result<Terms> {
        let Some(device) = place(candidates) else {
            let text = "an assignment on a device needs predictions on that device";
            return Err(ModelError::Config(text.into()));
        };
        device::terms(self, device, candidates, targets, assigned, points)
    }

    fn host_losses(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        assignment: Assignment,
        points: &mut dyn PointSource,
    ) -> Result<Loss> {
        let (mut parts, mut layers, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (l, (candidate, matched)) in candidates.iter().zip(assignment.layers).enumerate() {
            let LayerMatch { costs, pairs } = matched;
            let cls = self.class_term(candidate, &pairs)?;
            let masks = self.mask_term(l, candidate, targets, &pairs, points)?;
            values.push(cls.item::<f32>()?);
            match &masks {
                Some((loss, _)) => values.extend_from_slice(loss.data::<f32>()?),
                None => values.extend([0.0; 2]),
            }
            parts.push(cls);
            let points = masks.map(|(loss, points)| {
                parts.push(loss);
                points
            });
            layers.push(LayerLoss { costs, pairs, points });
        }
        let total = ops::total(&parts.iter().collect::<Vec<_>>())?;
        let values = Tensor::from_slice(&values, &[values.len()])?;
        Ok(Loss { total, values, layers })
    }

    /// Costs `[q, g]` of one image.
    fn image_costs(
        &self,
        layer: usize,
        image: usize,
        candidate: &Candidate,
        targets: &Targets,
        points: &mut dyn PointSource,
    ) -> Result<Vec<f32>> {
        let classes = &targets.classes()[image];
        let (q, g, p) = (candidate.cls.dim(1), classes.len(), self.config.points);
        let at = points.assign(layer, image, p)?;
        if g == 0 {
            return Ok(Vec::new());
        }
        let (h, w) = (candidate.mask.dim(2), candidate.mask.dim(3));
        let maps = ops::reshape(&ops::rows(&candidate.mask.detach(), image, 1)?, &[q, h, w])?;
        let x = ops::point_sample(&maps, &at, q)?;
        let mut t = Tensor::with_capacity(DType::F32, &[g, p], self.config.classes * p);
        let (lh, lw) = (targets.labels().dim(1), targets.labels().dim(2));
        let labels = ops::rows(targets.labels(), image, 1)?;
        let sample = LabelSample { h: lh, w: lw, p };
        sample.shared(labels.data::<u8>()?, classes, at.data::<f32>()?, t.data_mut::<f32>()?)?;
        let cls = ops::rows(&candidate.cls.detach(), image, 1)?;
        let ids: Vec<i32> = classes.iter().map(|&c| i32::from(c)).collect();
        let mut cost = vec![0.0; q * g];
        let [class_weight, mask_weight, dice_weight] = self.config.weights;
        let k = self.config.classes;
        let size = MatchCost { q, g, k, p, class_weight, mask_weight, dice_weight };
        size.compute(cls.data::<f32>()?, &ids, x.data()?, t.data()?, &mut cost)?;
        Ok(cost)
    }

    fn class_term(&self, candidate: &Candidate, pairs: &[MatchedPair]) -> Result<Tensor> {
        let (b, q, k) = (candidate.cls.dim(0), candidate.cls.dim(1), self.config.classes);
        let mut labels = vec![k as i32; b * q];
        for pair in pairs {
            labels[pair.image * q + pair.query] = i32::from(pair.class);
        }
        let mut weights = vec![1.0; k];
        weights.push(self.config.no_object);
        Ok(ops::class_loss(&candidate.cls, &labels, &weights, self.config.weights[0])?)
    }

    /// Mask and dice loss `[2]` and the points they read; `None` without pairs: both are then zero.
    fn mask_term(
        &self,
        layer: usize,
        candidate: &Candidate,
        targets: &Targets,
        pairs: &[MatchedPair],
        points: &mut dyn PointSource,
    ) -> Result<Option<(Tensor, Tensor)>> {
        if pairs.is_empty() {
            return Ok(None);
        }
        let b = targets.classes().len();
        let capacity = b * self.config.classes.min(candidate.cls.dim(1));
        let rows = candidate.rows(pairs, capacity)?;
        let at = with_category(Category::Data, || {
            no_grad(|| self.choose_points(layer, &rows.detach(), capacity, points))
        })?;
        let x = ops::point_sample(&rows, &at, capacity)?;
        let (r, p) = (pairs.len(), self.config.points);
        let mut t = Tensor::with_capacity(DType::F32, &[r, p], capacity * p);
        let images: Vec<usize> = pairs.iter().map(|p| p.image).collect();
        let classes: Vec<u8> = pairs.iter().map(|p| p.class).collect();
        let labels = targets.labels();
        let sample = LabelSample { h: labels.dim(1), w: labels.dim(2), p };
        let (at_data, t_data) = (at.data::<f32>()?, t.data_mut::<f32>()?);
        sample.each(labels.data::<u8>()?, &images, &classes, at_data, t_data)?;
        let [_, mask_weight, dice_weight] = self.config.weights;
        let num = mask_count(pairs, b);
        let loss = ops::mask_loss(&x, &t, num, [mask_weight, dice_weight], capacity)?;
        Ok(Some((loss, at)))
    }

    /// Chooses the share `importance` of the points (published: three quarters) by uncertainty.
    /// Their logits are nearest to zero; the other points are random.
    fn choose_points(
        &self,
        layer: usize,
        rows: &Tensor,
        capacity: usize,
        points: &mut dyn PointSource,
    ) -> Result<Tensor> {
        let (r, size) = (rows.dim(0), self.selection(rows.dim(0)));
        let over = points.oversample(layer, r, size.n_over)?;
        let random = points.random(layer, r, size.n_rand)?;
        let logits = ops::point_sample(rows, &over, capacity)?;
        let p = self.config.points;
        let mut chosen = Tensor::with_capacity(DType::F32, &[r, p, 2], capacity * p * 2);
        size.select(logits.data::<f32>()?, over.data()?, random.data()?, chosen.data_mut()?)?;
        Ok(chosen)
    }

    /// Sizes of the choice of points for `r` pairs.
    fn selection(&self, r: usize) -> UncertainPoints {
        let p = self.config.points;
        let n_over = (p as f64 * self.config.oversample) as usize;
        let keep = (p as f64 * self.config.importance) as usize;
        UncertainPoints { r, n_over, keep, n_rand: p - keep }
    }
}

/// Costs by prediction and image without the padding, and the values stored after them.
fn unpadded(all: &[f32], queries: &[usize], targets: &Targets) -> (Vec<Vec<Vec<f32>>>, Vec<f32>) {
    let (k, mut rest) = (targets.k(), all);
    let mut layers = Vec::with_capacity(queries.len());
    for &q in queries {
        let image = |classes: &Vec<u8>| {
            let (image, behind) = rest.split_at(q * k);
            rest = behind;
            let rows = image.chunks_exact(k.max(1));
            rows.flat_map(|row| &row[..classes.len()]).copied().collect()
        };
        layers.push(targets.classes().iter().map(image).collect());
    }
    (layers, rest.to_vec())
}
