//! One training step: forward pass, costs, assignment, losses, backward pass, update.
//!
//! On a device the host queues work and waits once a step, for the costs of the matching; the
//! losses of the step before come with them. So a loss is known one step late, or when
//! [`Trainer::flush`] asks for it. A loss that is not a number is caught where it arises: the
//! update reads it on the device and leaves everything as it was.

use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{Tensor, backward, isolated, no_grad, ops, range};
use dressage_models::ModelError;
use dressage_models::criterion::{
    Assignment, Candidate, Loss, PointSource, RandomPoints, StepCosts, Targets, named_terms,
};
use serde::Serialize;

use crate::data::{Batch, Loader};
use crate::trainer::Trainer;
use crate::{Result, TrainError, checkpoint};

/// What one step did.
#[derive(Debug, Clone, Serialize)]
pub struct StepLog {
    /// Sum of all losses.
    pub loss: f32,
    /// Every term under the reference's name, without its `decode.`.
    pub terms: Vec<(String, f32)>,
    /// Learning rate.
    pub lr: f64,
    /// Seconds that the host spent on the step, waiting for data and for a device included.
    pub seconds: f64,
    /// Of these, seconds for data, forward, losses, backward, update. Not on a device, which works
    /// on after the host has queued a part.
    pub laps: Option<[f64; 5]>,
}

/// A step whose loss is on a device still.
pub(crate) struct Pending {
    pub step: u64,
    pub samples: Vec<String>,
    pub lr: f64,
    pub seconds: f64,
    /// `[1 + 3 * layers]`: the sum of all losses, then each.
    pub loss_readback: Tensor,
}

/// A step that was carried out, or queued on a device.
pub(crate) enum Step {
    Known(StepLog),
    Queued(Pending),
}

/// The loss of a step: in host memory, sum and terms; or on a device, the sum and
/// [`loss_readback`].
enum State {
    Known(f32, Vec<(String, f32)>),
    Queued(Tensor, Tensor),
}

impl Trainer {
    /// One step on the loader's next batch, its loss known.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn step_with(&mut self, loader: &mut Loader) -> Result<StepLog> {
        let start = Instant::now();
        let batch = loader.next_batch()?;
        let waited = start.elapsed().as_secs_f64();
        let mut done = self.step_on(&batch)?;
        done.seconds += waited;
        if let Some(laps) = &mut done.laps {
            laps[0] += waited;
        }
        Ok(done)
    }

    /// One step on a batch, its loss known; on a device the host waits for that. The loss of an
    /// unread step before is discarded, unless it was not a number: then this call returns that
    /// error.
    ///
    /// # Errors
    /// A loss that is not a number (nothing is updated then, and the state is kept in a file of
    /// its own).
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepLog> {
        match self.step_in_pool(batch)?.0 {
            Step::Known(done) => Ok(done),
            Step::Queued(pending) => {
                let loss_readback = pending.loss_readback.to_host()?;
                self.read(pending, loss_readback.data()?)
            }
        }
    }

    /// Makes all later steps use the batch that lies on the device, whatever they are given.
    /// So they can be measured without its way there; steps through graphs can, and it returns
    /// whether they do.
    pub fn hold_batch(&mut self) -> bool {
        self.graphs.iter_mut().for_each(|graphs| graphs.held = true);
        self.graphs.is_some()
    }

    /// As [`Trainer::step_on`], but does not wait for the loss: on a device what is returned is the
    /// step before, if its loss was not known yet.
    ///
    /// # Errors
    /// As [`Trainer::step_on`], on a device also for the step before.
    pub fn queue(&mut self, batch: &Batch) -> Result<Option<StepLog>> {
        Ok(match self.step_in_pool(batch)? {
            (Step::Known(done), _) => Some(done),
            (Step::Queued(pending), before) => {
                self.pending = Some(pending);
                before
            }
        })
    }

    fn step_in_pool(&mut self, batch: &Batch) -> Result<(Step, Option<StepLog>)> {
        // A device may work on what a step has begun.
        self.torn = self.place.device().is_some();
        // On a thread of the pool, so that a parallel loop starts without waking anybody to hand
        // the work over.
        let step = rayon::scope(|_| isolated(|| self.step_through(batch)));
        self.torn = false;
        step
    }

    /// A step through graphs where they are on and take the batch, else launch by launch.
    fn step_through(&mut self, batch: &Batch) -> Result<(Step, Option<StepLog>)> {
        let mut before = None;
        if let Some(mut graphs) = self.graphs.take_if(|graphs| graphs.take(batch)) {
            match self.step_in(&mut graphs, batch, &mut before) {
                // Dropped, and their memory is there for what follows.
                Ok(None) => {}
                Ok(Some(step)) => {
                    self.graphs = Some(graphs);
                    return Ok((step, before));
                }
                Err(error) => {
                    self.graphs = Some(graphs);
                    return Err(error);
                }
            }
        }
        let (step, last) = self.step_from(&batch.names, |trainer| trainer.to_tensors(batch))?;
        Ok((step, before.or(last)))
    }

    /// A batch as tensors.
    pub(crate) fn to_tensors(&self, batch: &Batch) -> Result<(Tensor, Targets)> {
        let (b, h, w) = (batch.b, batch.h, batch.w);
        let image = Tensor::from_slice(&batch.images, &[b, 3, h, w])?;
        let labels = Tensor::from_slice(&batch.labels, &[b, h, w])?;
        Ok((image, Targets::new(labels, self.recipe.classes())?))
    }

    /// Goes through a step within a dry run, with every class in every image.
    pub(crate) fn dry_run_step(&mut self) -> Result<()> {
        let (b, s) = (self.recipe.train.batch, self.recipe.augment.crop);
        let classes = self.recipe.classes();
        let (done, _) = self.step_from(&[], |_| {
            let image = Tensor::empty::<f32>(&[b, 3, s, s]);
            Ok((image, Targets::for_dry_run(b, s, classes)))
        })?;
        if let Step::Queued(pending) = done {
            self.pending = Some(pending);
        }
        Ok(())
    }

    /// A step on the images `[b, 3, h, w]` and targets that `data` makes of `samples`; with it
    /// comes the step before, if its loss was not known yet.
    fn step_from(
        &mut self,
        samples: &[String],
        data: impl FnOnce(&Trainer) -> Result<(Tensor, Targets)>,
    ) -> Result<(Step, Option<StepLog>)> {
        let mut clock = Clock::start();
        let (image, targets) = with_category(Category::Data, || self.to_device(data(self)?))?;
        clock.lap();
        let output = self.model.forward(&image, false)?;
        clock.lap();
        let candidates = Candidate::of(&output);
        let (loss, before) = self.losses(&candidates, &targets, samples)?;
        drop((output, candidates));
        let state = match self.place.device() {
            Some(_) => State::Queued(loss.total.detach(), loss_readback(&loss)?),
            None => self.checked(&loss, samples)?,
        };
        clock.lap();
        let mut grads = backward(loss.total)?;
        drop(loss.layers);
        clock.lap();
        let (step, lr) = (self.step, self.schedule.lr(self.step));
        let guard = match &state {
            State::Known(..) => None,
            State::Queued(total, _) => Some(total),
        };
        let updating = range("optimiser");
        self.torn = true;
        self.optimiser.step(lr, &mut grads, guard)?;
        drop(updating);
        drop(grads);
        clock.lap();
        self.step += 1;
        self.torn = false;
        let (seconds, laps) = (clock.laps.iter().sum(), Some(clock.laps));
        let done = match state {
            State::Known(loss, terms) => Step::Known(StepLog { loss, terms, lr, seconds, laps }),
            State::Queued(_, loss_readback) => Step::Queued(Pending {
                step,
                samples: samples.to_vec(),
                lr,
                seconds,
                loss_readback,
            }),
        };
        Ok((done, before))
    }

    /// A batch where the network lies.
    pub(crate) fn to_device(
        &self,
        (image, targets): (Tensor, Targets),
    ) -> Result<(Tensor, Targets)> {
        let _range = range("data");
        Ok(match self.place.device() {
            Some(device) => (self.model.image(image)?, targets.to_device(device)?),
            None => (image, targets),
        })
    }

    /// Matches and compares. With it arrives the step before, if its loss was not known yet.
    fn losses(
        &mut self,
        candidates: &[Candidate],
        targets: &Targets,
        samples: &[String],
    ) -> Result<(Loss, Option<StepLog>)> {
        if let Some(mut points) = self.points.take() {
            let found = points.set_step(self.step).map_err(TrainError::from);
            let found =
                found.and_then(|()| self.compare(candidates, targets, &mut points, samples));
            self.points = Some(points);
            return found;
        }
        let (b, k) = (targets.classes().len(), self.criterion.config.classes);
        let mut points = RandomPoints {
            seed: self.recipe.train.seed,
            step: self.step,
            capacity: b * k.min(self.model.head().config().queries),
        };
        self.compare(candidates, targets, &mut points, samples)
    }

    fn compare(
        &mut self,
        candidates: &[Candidate],
        targets: &Targets,
        points: &mut dyn PointSource,
        samples: &[String],
    ) -> Result<(Loss, Option<StepLog>)> {
        let previous = self.pending.as_ref().map(|pending| &pending.loss_readback);
        let matching = range("matching");
        let costs = self.criterion.costs(candidates, targets, points, previous)?;
        let (assignment, before) = self.match_on_host(&costs, targets, samples)?;
        drop(matching);
        Ok((self.criterion.losses(candidates, targets, assignment, points)?, before))
    }

    /// Matches; on a device the wait of the step, with which the step before arrives, if its loss
    /// was not known yet.
    pub(crate) fn match_on_host(
        &mut self,
        costs: &StepCosts,
        targets: &Targets,
        samples: &[String],
    ) -> Result<(Assignment, Option<StepLog>)> {
        let (assignment, previous) = match self.criterion.assign(costs, targets) {
            Ok(found) => found,
            Err(ModelError::Matching(what)) => {
                // If the step before was bad as well, it was the first.
                self.flush()?;
                return Err(self.not_finite(what, self.step, samples)?);
            }
            Err(other) => return Err(other.into()),
        };
        let before = match self.pending.take() {
            Some(pending) => Some(self.read(pending, &previous)?),
            None => None,
        };
        Ok((assignment, before))
    }

    /// Waits for the loss of the last step if it is on a device still.
    ///
    /// # Errors
    /// A loss that is not a number: as [`Trainer::step_on`].
    pub fn flush(&mut self) -> Result<Option<StepLog>> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        let loss_readback = pending.loss_readback.to_host()?;
        self.read(pending, loss_readback.data()?).map(Some)
    }

    /// The log of a step from its `loss_readback`, or an error if the loss was not a number: then
    /// the device has left weights and moments as they were.
    fn read(&mut self, pending: Pending, loss_readback: &[f32]) -> Result<StepLog> {
        let Pending { step, samples, lr, seconds, .. } = pending;
        let (loss, values) =
            loss_readback.split_first().map_or((f32::NAN, loss_readback), |(l, v)| (*l, v));
        let terms = named_terms(values);
        // What the update on the device has looked at.
        if loss.is_finite() {
            return Ok(StepLog { loss, terms, lr, seconds, laps: None });
        }
        self.optimiser.undo_count();
        self.step = step;
        let what = bad_loss(loss, &terms).unwrap_or_default();
        Err(self.not_finite(what, step, &samples)?)
    }

    /// The values of a loss in host memory; one that is not a number becomes an error that says
    /// where it arose, after the state is saved.
    fn checked(&self, loss: &Loss, samples: &[String]) -> Result<State> {
        let (total, terms) = (loss.total.item()?, loss.named()?);
        match bad_loss(total, &terms) {
            None => Ok(State::Known(total, terms)),
            Some(what) => Err(self.not_finite(what, self.step, samples)?),
        }
    }

    /// Saves the state after `done` steps, since the loss of the next was not a number, and reports
    /// that; or that the state is broken itself, in which case nothing is written.
    fn not_finite(&self, what: String, done: u64, samples: &[String]) -> Result<TrainError> {
        let kept = checkpoint::before_nan(&self.dir);
        self.write(&kept, done)?;
        Ok(TrainError::NotFinite { step: done + 1, what, kept, samples: samples.join(", ") })
    }
}

/// The first term that is not a number, or else the sum if it is none, in words.
fn bad_loss(total: f32, terms: &[(String, f32)]) -> Option<String> {
    let terms = terms.iter().map(|(name, value)| (name.as_str(), *value));
    let bad = terms.chain([("the sum of losses", total)]).find(|(_, value)| !value.is_finite());
    bad.map(|(name, value)| format!("{name} is {value}"))
}

/// What the host is to know of a loss on a device, as one tensor.
fn loss_readback(loss: &Loss) -> Result<Tensor> {
    with_category(Category::Data, || {
        let total = ops::reshape(&loss.total.detach(), &[1])?;
        Ok(no_grad(|| ops::concat(&[&total, &loss.values.detach()], 0))?)
    })
}

/// Laps of one step.
struct Clock {
    last: Instant,
    laps: [f64; 5],
    next: usize,
}

impl Clock {
    fn start() -> Clock {
        Clock { last: Instant::now(), laps: [0.0; 5], next: 0 }
    }

    fn lap(&mut self) {
        let now = Instant::now();
        if let Some(lap) = self.laps.get_mut(self.next) {
            *lap = (now - self.last).as_secs_f64();
        }
        (self.last, self.next) = (now, self.next + 1);
    }
}
