//! Costs of every query for every target.

use dressage_engine::{DType, Tensor, no_grad, ops, range};

use super::{Candidate, Criterion, PointSource, StepCosts, check, shape};
use crate::objective::Targets;
use crate::{ModelError, Result};

impl Criterion {
    /// Computes the costs of every query for every target into one buffer, followed by a copy of
    /// `previous`: values of the previous step that the host reads back, where the predictions are.
    /// On a device all work is queued.
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
        check(self, candidates, targets)?;
        let _range = range("costs");
        let place = candidates.first().and_then(|c| c.cls.device());
        let of = |c: &Candidate| targets.classes().len() * c.cls.dim(1) * targets.k();
        let costs: usize = candidates.iter().map(of).sum();
        let extra = previous.map_or(0, Tensor::len);
        let mut table = Tensor::empty_on(place, DType::F32, &[costs + extra])?;
        no_grad(|| {
            let mut start = 0;
            for (l, candidate) in candidates.iter().enumerate() {
                self.layer_costs((l, candidate), targets, points, (&mut table, start))?;
                start += of(candidate);
            }
            if let Some(previous) = previous {
                table.copy_into(costs, previous)?;
            }
            Ok::<_, ModelError>(())
        })?;
        let queries = candidates.iter().map(|c| c.cls.dim(1)).collect();
        Ok(StepCosts { queries, table })
    }

    /// Writes the costs of one prediction into the table, from `start` on.
    fn layer_costs(
        &self,
        (l, candidate): (usize, &Candidate),
        targets: &Targets,
        points: &mut dyn PointSource,
        (table, start): (&mut Tensor, usize),
    ) -> Result<()> {
        let &[b, q, h, w] = candidate.mask.shape() else { return Err(shape(candidate)) };
        let place = candidate.cls.device();
        let padded = targets.padded(place)?;
        let at = points.assign(place, l, b, self.config.points)?;
        let maps = ops::reshape(&candidate.mask.detach(), &[b * q, h, w])?;
        let x = ops::point_sample(&maps, &at, b * q)?;
        let masks = targets.masks(&padded.images, &padded.classes);
        let t = ops::sample_labels(&masks, &at, true, 0)?;
        let (cls, classes) = (&candidate.cls.detach(), &padded.classes);
        let of = ops::Matching { cls, classes, x: &x, t: &t, weights: self.config.weights };
        Ok(ops::match_cost(&of, table, start)?)
    }
}
