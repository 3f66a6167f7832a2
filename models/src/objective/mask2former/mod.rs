//! Mask2Former: queries predict classes and masks, which are matched to the targets (spec
//! mask2former §2 to §5).

pub mod criterion;
pub mod head;
pub mod matching;

use std::sync::Arc;

use dressage_engine::{Device, Tensor, no_grad, ops};

use self::criterion::{
    AssignmentTable, Candidate, Criterion, CriterionConfig, RandomPoints, StepCosts, term_names,
};
use self::head::{Head, HeadConfig, HeadOutput};
use super::{BatchPart, Features, LossTerms, Objective, StepLoss, Targets};
use crate::params::Scope;
use crate::{ModelError, Result};

/// The Mask2Former head with its losses.
pub struct Mask2Former {
    head: Head,
    criterion: Criterion,
}

impl Mask2Former {
    /// Gets every parameter from `scope`, as [`Head::new`].
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn new(scope: &Scope, head: HeadConfig, loss: CriterionConfig) -> Result<Mask2Former> {
        Ok(Mask2Former { head: Head::new(scope, head)?, criterion: Criterion { config: loss } })
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The losses.
    pub fn criterion(&self) -> &Criterion {
        &self.criterion
    }

    /// Predictions from features; `last_only` as in [`Head::forward`].
    ///
    /// # Errors
    /// As [`Head::forward`].
    pub fn forward(&self, features: &Features, last_only: bool) -> Result<HeadOutput> {
        self.head.forward(&features.levels, features.queries.as_ref(), last_only)
    }
}

impl Objective for Mask2Former {
    fn classes(&self) -> usize {
        self.head.config().classes
    }

    fn terms(&self) -> Vec<String> {
        term_names(self.head.config().decoder_layers + 1)
    }

    fn step_loss(
        self: Arc<Self>,
        device: Option<&Device>,
        b: usize,
        seed: u64,
    ) -> Result<Box<dyn StepLoss>> {
        let HeadConfig { decoder_layers, queries, .. } = *self.head.config();
        let sizes = [decoder_layers + 1, b, queries];
        Ok(Box::new(MatchedLoss {
            points: RandomPoints::new(device, seed)?,
            matched: AssignmentTable::new(device, &self.criterion.config, sizes)?,
            candidates: Vec::new(),
            costs: None,
            objective: self,
        }))
    }

    fn scores(&self, features: &Features) -> Result<Tensor> {
        no_grad(|| {
            let output = self.forward(features, true)?;
            let Some(last) = output.predictions.last() else {
                return Err(ModelError::Config("the head made no prediction".into()));
            };
            Ok(ops::semantic_scores(&last.cls, &last.mask, features.size)?)
        })
    }
}

/// Loss of matched predictions through the steps of a run.
struct MatchedLoss {
    objective: Arc<Mask2Former>,
    points: RandomPoints,
    matched: AssignmentTable,
    /// Predictions of the step, until their losses are computed.
    candidates: Vec<Candidate>,
    costs: Option<StepCosts>,
}

impl StepLoss for MatchedLoss {
    fn set_step(&mut self, step: u64, part: Option<BatchPart<'_>>) -> Result<()> {
        self.points.set_first_image(part.map_or(0, |part| part.first));
        self.matched.set_part(part);
        self.points.set_step(step)
    }

    fn predict(&mut self, features: &Features) -> Result<()> {
        self.candidates = Candidate::of(&self.objective.forward(features, false)?);
        Ok(())
    }

    fn costs(&mut self, targets: &Targets, previous: Option<&Tensor>) -> Result<()> {
        let criterion = &self.objective.criterion;
        self.costs =
            Some(criterion.costs(&self.candidates, targets, &mut self.points, previous)?);
        Ok(())
    }

    fn decide(&mut self, targets: &Targets) -> Result<Vec<f32>> {
        let none = || ModelError::Config("nothing was predicted before the matching".into());
        let costs = self.costs.as_ref().ok_or_else(none)?;
        let (assignment, previous) = self.objective.criterion.assign(costs, targets)?;
        self.matched.upload(&assignment)?;
        Ok(previous)
    }

    fn losses(&mut self, targets: &Targets) -> Result<LossTerms> {
        let candidates = std::mem::take(&mut self.candidates);
        let (criterion, points) = (&self.objective.criterion, &mut self.points);
        let terms = criterion.terms(&candidates, targets, &self.matched, points)?;
        Ok(LossTerms { total: terms.total, values: terms.values })
    }

    fn release(&mut self) {
        self.costs = None;
        self.candidates.clear();
    }
}
