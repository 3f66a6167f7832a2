//! One training step: forward pass, costs, assignment, losses, backward pass, update. All but the
//! update may go over parts of the batch, one after the other (`train.accumulate`).
//!
//! On a device the host queues work and waits once per part, for the costs of the matching. The
//! losses of the previous step arrive with the first. So a loss is known one step late, or when
//! [`Trainer::flush`] reads it. A loss that is not finite is still caught in its own step: the
//! update reads it on the device and changes nothing.

use std::time::Instant;

use dressage_engine::memory::{Category, with_category};
use dressage_engine::{DType, Device, Gradients, Tensor, isolated, range};
use dressage_models::objective::{LossTerms, Targets};
use dressage_models::{Generator, ModelError};
use serde::Serialize;

use crate::data::{Batch, Loader};
use crate::optimiser::Optimiser;
use crate::parts::{Part, Parts, StepBuffers, Sums};
use crate::schedule::Rates;
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
    /// `[1 + terms]`: the sum of all losses, then each term.
    pub loss_readback: Tensor,
}

/// A step that ran on the host, or was queued on a device.
pub(crate) enum Step {
    Known(StepLog),
    Queued(Pending),
}

/// Inputs of a step besides its buffers.
pub(crate) struct StepContext<'a> {
    pub samples: &'a [String],
    pub rates: Rates,
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
    /// Measurements then exclude the copy to the device. Returns whether this place can do so.
    pub fn reuse_batch(&mut self) -> bool {
        self.on_device.iter_mut().for_each(|on_device| on_device.reuse_batch = true);
        self.on_device.is_some()
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
        let size = [batch.b, batch.h, batch.w];
        let step = rayon::scope(|_| {
            isolated(|| self.step_from(&batch.names, size, |trainer| trainer.to_tensors(batch)))
        });
        self.torn = false;
        step
    }

    /// Converts a batch to the tensors of its parts.
    fn to_tensors(&self, batch: &Batch) -> Result<Parts> {
        let (h, w) = (batch.h, batch.w);
        let pixels = (batch.b.div_ceil(self.recipe.train.accumulate) * h * w).max(1);
        let parts = batch.images.chunks(3 * pixels).zip(batch.labels.chunks(pixels));
        let tensors = |(images, labels): (&[f32], &[u8])| {
            let b = labels.len() / (h * w);
            let image = Tensor::from_slice(images, &[b, 3, h, w])?;
            let labels = Tensor::from_slice(labels, &[b, h, w])?;
            Ok((image, Targets::new(labels, self.recipe.classes())?))
        };
        parts.map(tensors).collect()
    }

    /// Runs one step within a dry run, with every class in every image.
    pub(crate) fn dry_run_step(&mut self) -> Result<()> {
        let (b, s) = (self.recipe.train.batch, self.recipe.augment.crop);
        let classes = self.recipe.classes();
        let (done, _) = self.step_from(&[], [self.recipe.images_per_step(), s, s], |trainer| {
            let part = |_| {
                let image = Tensor::empty::<f32>(&[b, 3, s, s]);
                (image, Targets::for_dry_run(b, s, classes))
            };
            Ok((0..trainer.recipe.train.accumulate).map(part).collect())
        })?;
        if let Step::Queued(pending) = done {
            self.pending = Some(pending);
        }
        Ok(())
    }

    /// Runs a step on the images `[b, 3, h, w]` and targets that `data` makes of `samples`, in parts.
    /// Also returns the previous step, if its loss was not known yet.
    fn step_from(
        &mut self,
        samples: &[String],
        size: [usize; 3],
        data: impl Fn(&Trainer) -> Result<Parts>,
    ) -> Result<(Step, Option<StepLog>)> {
        let mut clock = Clock::start();
        let mut buffers = with_category(Category::Data, || self.buffers(size, data))?;
        clock.lap(Lap::Data);
        let context = StepContext { samples, rates: self.rates() };
        let done = match self.place.device().cloned() {
            None => self.step_on_host(&context, &mut buffers, &mut clock).map(|step| (step, None)),
            Some(device) => self.step_on_device(&context, &device, &mut buffers, &clock),
        };
        self.keep(buffers);
        done
    }

    /// Rates of the next step.
    fn rates(&self) -> Rates {
        let ema = &self.recipe.train.ema;
        Rates {
            lr: self.schedule.lr(self.step),
            weight_decay: self.decay.lr(self.step),
            average: if self.step < ema.start { 1.0 } else { ema.rate },
        }
    }

    /// Keeps the buffers of a step on a device, unless they are of another size than usual.
    fn keep(&mut self, buffers: StepBuffers) {
        if let Some(usual) = self.on_device.as_mut().filter(|usual| usual.size == buffers.size()) {
            usual.buffers = Some(buffers);
        }
    }

    /// The buffers of a step, with its batch: on a device those of the step before.
    fn buffers(
        &mut self,
        size: [usize; 3],
        data: impl Fn(&Trainer) -> Result<Parts>,
    ) -> Result<StepBuffers> {
        let usual = self.on_device.as_mut();
        let reuse_batch = usual.as_ref().is_some_and(|usual| usual.reuse_batch);
        let kept = usual.and_then(|usual| usual.buffers.take_if(|buffers| buffers.size() == size));
        let mut buffers = match kept {
            Some(buffers) if reuse_batch => buffers,
            Some(mut buffers) => match data(self).and_then(|data| buffers.write(&data)) {
                Ok(()) => buffers,
                Err(error) => {
                    self.keep(buffers);
                    return Err(error);
                }
            },
            None => self.allocate(data(self)?)?,
        };
        buffers.set_step(self.step)?;
        Ok(buffers)
    }

    fn allocate(&self, batch: Parts) -> Result<StepBuffers> {
        let _range = range("data");
        let (device, objective) = (self.place.device(), self.model.objective());
        let part = |(image, targets): (Tensor, Targets)| {
            let (image, targets) = match device {
                Some(device) => (self.model.image(image)?, targets.to_device(device)?),
                None => (image, targets),
            };
            let seed = self.recipe.train.seed;
            let loss = objective.clone().step_loss(device, image.dim(0), seed)?;
            let generator = Generator::new(device, seed)?;
            Ok(Part { image, targets, loss, generator })
        };
        let terms = objective.terms().len();
        let one = Tensor::from_slice(&[1.0f32], &[])?;
        Ok(StepBuffers {
            parts: batch.into_iter().map(part).collect::<Result<_>>()?,
            loss_readback: Tensor::zeros_on(device, DType::F32, &[1 + terms])?,
            one: device.map_or(Ok(one.clone()), |device| one.to_device(device, DType::F32))?,
        })
    }

    fn step_on_host(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StepBuffers,
        clock: &mut Clock,
    ) -> Result<Step> {
        let (mut sums, mut known) = (Sums::default(), (0.0, Vec::new()));
        for k in 0..buffers.parts.len() {
            let part = &mut buffers.parts[k];
            self.model.predict(&part.image, &part.generator, &mut *part.loss)?;
            clock.lap(Lap::Forward);
            part.loss.costs(&part.targets, None)?;
            self.match_on_host(context, buffers, k)?;
            let part = &mut buffers.parts[k];
            let losses = part.loss.losses(&part.targets)?;
            part.loss.release();
            known = self.checked(sums.add_losses(&losses)?, context.samples)?;
            clock.lap(Lap::Losses);
            sums.grads.extend(vec![(losses.total, buffers.one.clone())])?;
            clock.lap(Lap::Backward);
        }
        let updating = range("optimiser");
        self.torn = true;
        self.model.move_statistics(None)?;
        self.optimiser.step(context.rates, &mut sums.grads, None)?;
        drop(updating);
        drop(sums);
        clock.lap(Lap::Update);
        self.step += 1;
        self.torn = false;
        let (loss, terms) = known;
        let (lr, seconds, laps) = (context.rates.lr, clock.laps.iter().sum(), Some(clock.laps));
        Ok(Step::Known(StepLog { loss, terms, lr, seconds, laps }))
    }

    fn step_on_device(
        &mut self,
        context: &StepContext<'_>,
        device: &Device,
        buffers: &mut StepBuffers,
        clock: &Clock,
    ) -> Result<(Step, Option<StepLog>)> {
        // The pending loss is from a step with other buffers.
        if let Some(pending) = &self.pending
            && pending.loss_readback.address() != buffers.loss_readback.address()
        {
            buffers.loss_readback.copy_into(0, &pending.loss_readback)?;
        }
        let before = self.through_graphs(context, device, buffers)?;
        let step = self.step;
        self.step += 1;
        let pending = Pending {
            step,
            samples: context.samples.to_vec(),
            lr: context.rates.lr,
            seconds: clock.start.elapsed().as_secs_f64(),
            loss_readback: buffers.loss_readback.clone(),
        };
        Ok((Step::Queued(pending), before))
    }

    /// Queues the predictions of part `k` and what the host decides on: the first half of its step
    /// on a device.
    pub(crate) fn forward_and_costs(&mut self, buffers: &mut StepBuffers, k: usize) -> Result<()> {
        let StepBuffers { parts, loss_readback, .. } = buffers;
        let Part { image, targets, loss, generator } = &mut parts[k];
        self.model.predict(image, generator, &mut **loss)?;
        let _range = range("matching");
        Ok(loss.costs(targets, (k == 0).then_some(&*loss_readback))?)
    }

    /// Decides on the host what the losses of part `k` compare. On a device this is the wait for
    /// that part. Also returns the previous step, if its loss was not known yet.
    pub(crate) fn match_on_host(
        &mut self,
        context: &StepContext<'_>,
        buffers: &mut StepBuffers,
        k: usize,
    ) -> Result<Option<StepLog>> {
        let _range = range("matching");
        let n = buffers.parts.len();
        let Part { targets, loss, .. } = &mut buffers.parts[k];
        let previous = match loss.decide(targets) {
            Ok(previous) => previous,
            Err(ModelError::Matching(mut what)) => {
                if n > 1 {
                    what += &format!(", in part {} of {n} of the batch", k + 1);
                }
                // If the loss of the previous step was not finite either, that step is reported.
                self.flush()?;
                return Err(self.not_finite(what, self.step, context.samples)?);
            }
            Err(other) => return Err(other.into()),
        };
        match self.pending.take() {
            Some(pending) => Ok(Some(self.read(pending, &previous)?)),
            None => Ok(None),
        }
    }

    /// Queues losses and gradients of part `k`, the second half of its step on a device, and adds
    /// them to `sums`.
    pub(crate) fn losses_and_gradients(
        &mut self,
        buffers: &mut StepBuffers,
        k: usize,
        sums: &mut Sums,
    ) -> Result<()> {
        let Part { targets, loss, .. } = &mut buffers.parts[k];
        let losses = loss.losses(targets)?;
        let LossTerms { total, values } = sums.add_losses(&losses)?;
        if k + 1 == buffers.parts.len() {
            buffers.loss_readback.copy_into(0, total)?;
            buffers.loss_readback.copy_into(1, values)?;
        }
        Ok(sums.grads.extend(vec![(losses.total, buffers.one.clone())])?)
    }

    /// Calls `update` with the gradients of all parts and the guarding loss.
    pub(crate) fn update<R>(
        &mut self,
        mut sums: Sums,
        update: impl FnOnce(&mut Optimiser, &mut Gradients, &Tensor) -> Result<R>,
    ) -> Result<R> {
        let none = || ModelError::Config("a batch without images has no gradients".into());
        let LossTerms { total, .. } = sums.losses.ok_or_else(none)?;
        let _range = range("optimiser");
        self.model.move_statistics(Some(&total))?;
        update(&mut self.optimiser, &mut sums.grads, &total)
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
        let terms = self.named(values);
        // The update on the device checked the same value.
        if loss.is_finite() {
            return Ok(StepLog { loss, terms, lr, seconds, laps: None });
        }
        self.optimiser.undo_count();
        self.step = step;
        let what = bad_loss(loss, &terms).unwrap_or_default();
        Err(self.not_finite(what, step, &samples)?)
    }

    /// Loss terms with their names.
    fn named(&self, values: &[f32]) -> Vec<(String, f32)> {
        self.model.objective().terms().into_iter().zip(values.iter().copied()).collect()
    }

    /// Values of a loss in host memory. A loss that is not finite becomes an error that names the
    /// term, after the state is saved.
    fn checked(&self, loss: &LossTerms, samples: &[String]) -> Result<(f32, Vec<(String, f32)>)> {
        let (total, terms) = (loss.total.item()?, self.named(loss.values.data()?));
        match bad_loss(total, &terms) {
            None => Ok((total, terms)),
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

/// Stopwatch for the parts of one step.
struct Clock {
    start: Instant,
    last: Instant,
    laps: [f64; 5],
}

/// Parts of a step, as [`StepLog::laps`] lists them.
#[derive(Clone, Copy)]
enum Lap {
    Data,
    Forward,
    Losses,
    Backward,
    Update,
}

impl Clock {
    fn start() -> Clock {
        let start = Instant::now();
        Clock { start, last: start, laps: [0.0; 5] }
    }

    /// Adds the time since the last call to a part.
    fn lap(&mut self, part: Lap) {
        let now = Instant::now();
        self.laps[part as usize] += (now - self.last).as_secs_f64();
        self.last = now;
    }
}
