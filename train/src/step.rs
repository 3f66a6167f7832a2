//! One training step: forward pass, costs, assignment, losses, backward pass, update.
//!
//! On a device the host queues work and waits once per step, for the costs of the matching. The
//! losses of the previous step arrive with them. So a loss is known one step late, or when
//! [`Trainer::flush`] reads it. A loss that is not finite is still caught in its own step: the
//! update reads it on the device and changes nothing.

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

/// Result of one step.
#[derive(Debug, Clone, Serialize)]
pub struct StepLog {
    /// Sum of all losses.
    pub loss: f32,
    /// Every loss term, under the reference's name without its `decode.`.
    pub terms: Vec<(String, f32)>,
    /// Learning rate.
    pub lr: f64,
    /// Seconds that the host spent on the step, including waits for data and for a device.
    pub seconds: f64,
    /// Seconds for data, forward, losses, backward, update. `None` on a device, which still
    /// computes a part after the host has queued it.
    pub laps: Option<[f64; 5]>,
}

/// A step whose loss is still on a device.
pub(crate) struct Pending {
    pub step: u64,
    pub samples: Vec<String>,
    pub lr: f64,
    pub seconds: f64,
    /// `[1 + 3 * layers]`: the sum of all losses, then each term.
    pub loss_readback: Tensor,
}

/// A step that ran on the host, or was queued on a device.
pub(crate) enum Step {
    Known(StepLog),
    Queued(Pending),
}

/// Loss of a step: sum and terms in host memory, or sum and [`loss_readback`] on a device.
enum State {
    Known(f32, Vec<(String, f32)>),
    Queued(Tensor, Tensor),
}

impl Trainer {
    /// Runs one step on the loader's next batch and returns its loss.
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

    /// Runs one step on a batch and returns its loss; on a device the host waits for it. The loss
    /// of an unread previous step is discarded, unless it was not finite: then this call returns
    /// that error.
    ///
    /// # Errors
    /// A loss that is not finite (nothing is updated then, and the state is kept in a file of its
    /// own).
    pub fn step_on(&mut self, batch: &Batch) -> Result<StepLog> {
        match self.step_in_pool(batch)?.0 {
            Step::Known(done) => Ok(done),
            Step::Queued(pending) => {
                let loss_readback = pending.loss_readback.to_host()?;
                self.read(pending, loss_readback.data()?)
            }
        }
    }

    /// Makes all later steps reuse the batch on the device and ignore the one they are given.
    /// Measurements then exclude the copy to the device. Only steps through graphs can do this;
    /// returns whether they are on.
    pub fn reuse_batch(&mut self) -> bool {
        self.graphs.iter_mut().for_each(|graphs| graphs.reuse_batch = true);
        self.graphs.is_some()
    }

    /// Queues one step as [`Trainer::step_on`] does, without waiting for its loss. On a device it
    /// returns the previous step, if its loss was not known yet.
    ///
    /// # Errors
    /// As [`Trainer::step_on`], on a device also for the previous step.
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
        // Work that a failed step has queued may still run on a device.
        self.torn = self.place.device().is_some();
        // Runs on a thread of the pool, so that a parallel loop starts without waking a thread
        // first.
        let step = rayon::scope(|_| isolated(|| self.step_through(batch)));
        self.torn = false;
        step
    }

    /// Runs a step through graphs if they are on and accept the batch, else launch by launch.
    fn step_through(&mut self, batch: &Batch) -> Result<(Step, Option<StepLog>)> {
        let mut before = None;
        if let Some(mut graphs) = self.graphs.take_if(|graphs| graphs.take(batch)) {
            match self.step_in(&mut graphs, batch, &mut before) {
                // The graphs are dropped, which frees their memory for the step below.
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

    /// Converts a batch to tensors.
    pub(crate) fn to_tensors(&self, batch: &Batch) -> Result<(Tensor, Targets)> {
        let (b, h, w) = (batch.b, batch.h, batch.w);
        let image = Tensor::from_slice(&batch.images, &[b, 3, h, w])?;
        let labels = Tensor::from_slice(&batch.labels, &[b, h, w])?;
        Ok((image, Targets::new(labels, self.recipe.classes())?))
    }

    /// Runs one step within a dry run, with every class in every image.
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

    /// Runs a step on the images `[b, 3, h, w]` and targets that `data` makes of `samples`. Also
    /// returns the previous step, if its loss was not known yet.
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

    /// Copies a batch to where the network is stored.
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

    /// Computes costs, assignment and losses. Also returns the previous step, if its loss was not
    /// known yet.
    fn losses(
        &mut self,
        candidates: &[Candidate],
        targets: &Targets,
        samples: &[String],
    ) -> Result<(Loss, Option<StepLog>)> {
        if let Some(mut points) = self.points.take() {
            let result = points.set_step(self.step).map_err(TrainError::from);
            let result =
                result.and_then(|()| self.compare(candidates, targets, &mut points, samples));
            self.points = Some(points);
            return result;
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

    /// Computes the assignment on the host. On a device this is the wait of the step. Also returns
    /// the previous step, if its loss was not known yet.
    pub(crate) fn match_on_host(
        &mut self,
        costs: &StepCosts,
        targets: &Targets,
        samples: &[String],
    ) -> Result<(Assignment, Option<StepLog>)> {
        let (assignment, previous) = match self.criterion.assign(costs, targets) {
            Ok(found) => found,
            Err(ModelError::Matching(what)) => {
                // If the loss of the previous step was not finite either, that step is reported.
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

    /// Waits for the loss of the last step if it is still on a device.
    ///
    /// # Errors
    /// A loss that is not finite: as [`Trainer::step_on`].
    pub fn flush(&mut self) -> Result<Option<StepLog>> {
        let Some(pending) = self.pending.take() else { return Ok(None) };
        let loss_readback = pending.loss_readback.to_host()?;
        self.read(pending, loss_readback.data()?).map(Some)
    }

    /// Makes the log of a step from its `loss_readback`. A loss that is not finite is an error; the
    /// device has then left weights and moments unchanged.
    fn read(&mut self, pending: Pending, loss_readback: &[f32]) -> Result<StepLog> {
        let Pending { step, samples, lr, seconds, .. } = pending;
        let (loss, values) =
            loss_readback.split_first().map_or((f32::NAN, loss_readback), |(l, v)| (*l, v));
        let terms = named_terms(values);
        // The update on the device checked the same value.
        if loss.is_finite() {
            return Ok(StepLog { loss, terms, lr, seconds, laps: None });
        }
        self.optimiser.undo_count();
        self.step = step;
        let what = bad_loss(loss, &terms).unwrap_or_default();
        Err(self.not_finite(what, step, &samples)?)
    }

    /// Copies the values of a loss to host memory. A loss that is not finite becomes an error that
    /// names the term, after the state is saved.
    fn checked(&self, loss: &Loss, samples: &[String]) -> Result<State> {
        let (total, terms) = (loss.total.item()?, loss.named()?);
        match bad_loss(total, &terms) {
            None => Ok(State::Known(total, terms)),
            Some(what) => Err(self.not_finite(what, self.step, samples)?),
        }
    }

    /// Saves the state after `done` steps, because the loss of the next was not finite. Returns the
    /// error that reports this. If the state itself is broken, nothing is written and that is the
    /// error.
    fn not_finite(&self, what: String, done: u64, samples: &[String]) -> Result<TrainError> {
        let saved = checkpoint::before_nan(&self.dir);
        self.write(&saved, done)?;
        Ok(TrainError::NotFinite { step: done + 1, what, saved, samples: samples.join(", ") })
    }
}

/// Describes the first term that is not finite, or the sum if only that is not.
fn bad_loss(total: f32, terms: &[(String, f32)]) -> Option<String> {
    let terms = terms.iter().map(|(name, value)| (name.as_str(), *value));
    let bad = terms.chain([("the sum of losses", total)]).find(|(_, value)| !value.is_finite());
    bad.map(|(name, value)| format!("{name} is {value}"))
}

/// Values of the loss on a device that the host reads back, as one tensor.
fn loss_readback(loss: &Loss) -> Result<Tensor> {
    with_category(Category::Data, || {
        let total = ops::reshape(&loss.total.detach(), &[1])?;
        Ok(no_grad(|| ops::concat(&[&total, &loss.values.detach()], 0))?)
    })
}

/// Stopwatch for the parts of one step.
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
