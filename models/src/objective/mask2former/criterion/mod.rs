//! Matching and losses of Mask2Former (spec mask2former §4).
//!
//! A step has three phases, on the host as on a device:
//!
//! 1. [`Criterion::costs`] computes the cost of each pair of query and target;
//! 2. [`Criterion::assign`] finds the cheapest assignment, always on the host. With a device this
//!    is the only wait of the step: one copy to the host contains the costs and the loss of the
//!    previous step;
//! 3. [`Criterion::terms`] compares the matched pairs at random points.
//!
//! If an image has more targets than there are queries, the most expensive targets stay unmatched.
//! They do not count in the losses or in the number of masks.
//!
//! Targets of an image are padded to the number of classes. On a device matched pairs are padded
//! too, to the slots of an [`AssignmentTable`], so that no kernel launch or allocation depends on
//! the targets. Values that change from step to step are read from fixed addresses
//! ([`Targets::overwrite`], [`AssignmentTable::upload`], [`RandomPoints::set_step`]). On the host
//! the table has rows for the pairs alone.
//!
//! [`Criterion::loss`] runs the three phases and returns costs, pairs and points as well.

mod costs;
mod losses;
mod points;
mod results;
mod table;

use dressage_engine::Tensor;
use dressage_kernels::dry_run;

use super::head::{HeadOutput, Prediction};
use super::matching::{Costs, match_all};
use crate::objective::Targets;
use crate::{ModelError, Result};
pub use points::{PointSource, RandomPoints, Slots};
pub(crate) use results::term_names;
pub use results::{Assignment, LayerLoss, LayerMatch, Loss, MatchedPair, Terms, named_terms};
pub use table::AssignmentTable;

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
        let one = |p: &Prediction| Candidate {
            cls: p.cls.clone(),
            mask: p.mask.detach(),
            embed: Some((p.mask_embed.clone(), output.mask_feature.clone())),
        };
        output.predictions.iter().map(one).collect()
    }
}

/// Costs of all predictions, in the same memory as the predictions. On a device the kernels that
/// compute them may still run.
#[derive(Debug)]
pub struct StepCosts {
    /// Queries of each prediction.
    queries: Vec<usize>,
    /// `[b, q, k]` of each prediction, then the previous values.
    table: Tensor,
}

/// Computes matching and losses.
#[derive(Debug, Clone)]
pub struct Criterion {
    /// Settings.
    pub config: CriterionConfig,
}

impl Criterion {
    /// Losses of all predictions against the targets, with what they are made of. On a device the
    /// call waits once.
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

    /// Computes the losses of an assignment, in a table of its own.
    ///
    /// # Errors
    /// As [`Criterion::terms`].
    pub fn losses(
        &self,
        candidates: &[Candidate],
        targets: &Targets,
        assignment: Assignment,
        points: &mut dyn PointSource,
    ) -> Result<Loss> {
        let first = candidates.first();
        let device = first.and_then(|c| c.cls.device());
        let queries = first.map_or(0, |c| c.cls.dim(1));
        let sizes = [candidates.len(), targets.classes().len(), queries];
        let mut table = AssignmentTable::new(device, &self.config, sizes)?;
        table.upload(&assignment)?;
        let terms = self.terms(candidates, targets, &table, points)?;
        let layer = |(of, points): (LayerMatch, Option<Tensor>)| {
            let LayerMatch { costs, pairs } = of;
            LayerLoss { costs, pairs, points }
        };
        let layers = assignment.layers.into_iter().zip(terms.points).map(layer).collect();
        Ok(Loss { total: terms.total, values: terms.values, layers })
    }

    /// The cheapest assignment of queries to targets, and the `previous` values stored with the
    /// costs. On a device this is the only wait of a step.
    ///
    /// # Errors
    /// A cost that is not finite, with layer, image, query and target; a failure of the device,
    /// also of a kernel launched earlier.
    pub fn assign(&self, costs: &StepCosts, targets: &Targets) -> Result<(Assignment, Vec<f32>)> {
        let queries = &costs.queries;
        let table = costs.table.to_host()?;
        let (mut costs, previous) = unpadded(table.data()?, queries, targets);
        if dry_run::active() {
            // Nothing was computed: the memory has what was there before, perhaps NaN.
            costs.iter_mut().flatten().for_each(|costs| costs.fill(0.0));
        }
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
